/* A unit of two datasets that live on one node and change hands in one transaction.  See README.md.

   The tenures of both, two nodes; neither deadlines nor storage: those are each dataset's own matter (ownership.pml).
   Shown: whatever is late, or decided on an old picture, the two are never held by different nodes that live; and what
   is written in one transaction is as it was decided on, in both. */
#ifndef FENCES
#define FENCES 1         /* incarnations that are fenced; their nodes join anew */
#endif
#ifndef MOVES
#define MOVES 2          /* handovers, and releases of one dataset or both */
#endif
#ifndef EPOCHS
#define EPOCHS 4
#endif
#define NODES 2
#define FREE 0           /* new or released */
#define HELD 1
/* Each tenure. */
byte holder[2], state[2], epoch[2];
bool fenced[NODES + FENCES + 1];
byte inc[NODES], next_inc = NODES + 1, fences = FENCES, moves = MOVES;
/* The picture that a node decides on, by node and dataset (n * 2 + d): mine, free, and whether it is still so. */
bool sees_mine[NODES * 2], sees_free[NODES * 2], newest[NODES * 2];
/* What a node has under way: what it writes, what it compares, and whether that is as it was.  n: what it waits for; LATE(n):
   a claim that was not answered, which nobody settles. */
#define SLOTS    (2 * NODES)
#define LATE(n)  (n + NODES)
#define NOTHING  0
#define CLAIM    1
#define HANDOVER 2
#define RELEASE  3
byte sent[SLOTS], by[SLOTS], to_inc[SLOTS];
bool writes[SLOTS * 2], compares[SLOTS * 2], fits[SLOTS * 2];

#define AT(n, d)    ((n) * 2 + d)
#define GONE(d)     (state[d] == FREE || fenced[holder[d]])
#define MINE(n, d)  (state[d] == HELD && holder[d] == inc[n])
#define FITS(n, d)  (!compares[AT(n, d)] || fits[AT(n, d)])
#define SPLIT       (state[0] == HELD && state[1] == HELD && holder[0] != holder[1] && !fenced[holder[0]] && !fenced[holder[1]])

inline look(n, d) { sees_mine[AT(n, d)] = MINE(n, d); sees_free[AT(n, d)] = GONE(d); newest[AT(n, d)] = 1 }
inline moved(d) {
  fits[AT(0, d)] = 0; fits[AT(1, d)] = 0; fits[AT(2, d)] = 0; fits[AT(3, d)] = 0;
  newest[AT(0, d)] = 0; newest[AT(1, d)] = 0 }

inline send(n, what, x, y) {
  sent[n] = what; by[n] = inc[n];
  writes[AT(n, 0)] = x; writes[AT(n, 1)] = y;
#ifdef BAD_ONLY_WRITTEN_COMPARED       /* and not the others of the unit that it was decided on */
  compares[AT(n, 0)] = writes[AT(n, 0)]; compares[AT(n, 1)] = writes[AT(n, 1)];
#else
#ifdef BAD_FIRST_COMPARED
  compares[AT(n, 0)] = 1; compares[AT(n, 1)] = 0;
#else
  compares[AT(n, 0)] = 1; compares[AT(n, 1)] = 1;
#endif
#endif
  fits[AT(n, 0)] = compares[AT(n, 0)] && newest[AT(n, 0)]; fits[AT(n, 1)] = compares[AT(n, 1)] && newest[AT(n, 1)] }

inline forget(n) {
  sent[n] = NOTHING; by[n] = 0; to_inc[n] = 0;
  writes[AT(n, 0)] = 0; writes[AT(n, 1)] = 0; compares[AT(n, 0)] = 0; compares[AT(n, 1)] = 0; fits[AT(n, 0)] = 0; fits[AT(n, 1)] = 0 }

inline write(q, d) {
  if
  :: !writes[AT(q, d)]
  :: writes[AT(q, d)] && sent[q] == CLAIM -> assert(GONE(d)); holder[d] = by[q]; state[d] = HELD; epoch[d]++; moved(d)
  :: writes[AT(q, d)] && sent[q] == HANDOVER -> assert(holder[d] == by[q] && state[d] == HELD); holder[d] = to_inc[q]; epoch[d]++; moved(d)
  :: writes[AT(q, d)] && sent[q] == RELEASE -> assert(holder[d] == by[q] && state[d] == HELD); state[d] = FREE; holder[d] = 0; moved(d)
  fi }

#define REACHES(q, me) (!fenced[by[q]] && (sent[q] != HANDOVER || !fenced[to_inc[q]] && inc[1 - me] == to_inc[q]))
/* It reaches etcd, at any time. */
inline arrive(slot, node) {
  f0 = FITS(slot, 0); f1 = FITS(slot, 1);
  if
#ifdef BAD_NOT_ALL_OR_NONE
  :: REACHES(slot, node) -> if :: f0 -> write(slot, 0) :: else fi; if :: f1 -> write(slot, 1) :: else fi
#else
  :: f0 && f1 && REACHES(slot, node) -> write(slot, 0); write(slot, 1)
#endif
  :: else
  fi;
  forget(slot); f0 = 0; f1 = 0 }

#define CAN_SEND(n) (sent[n] == NOTHING && !fenced[inc[n]])
#define ROOM        (epoch[0] < EPOCHS && epoch[1] < EPOCHS)

proctype Node(bit n) {
  bool f0, f1;
  do
  /* The picture moves on: of both at once, as a watch tells a revision as a whole. */
  :: atomic { !newest[AT(n, 0)] || !newest[AT(n, 1)] -> look(n, 0); look(n, 1) }
  /* What nobody holds: all of it, in one; and what nobody holds beside what is mine. */
  :: atomic { CAN_SEND(n) && ROOM && sees_free[AT(n, 0)] && sees_free[AT(n, 1)] ->
#ifdef BAD_ONE_BY_ONE
       if :: send(n, CLAIM, 1, 0); compares[AT(n, 1)] = 0 :: send(n, CLAIM, 0, 1); compares[AT(n, 0)] = 0 fi
#else
       send(n, CLAIM, 1, 1)
#endif
     }
  :: atomic { CAN_SEND(n) && ROOM && sees_mine[AT(n, 0)] && sees_free[AT(n, 1)] -> send(n, CLAIM, 0, 1) }
  :: atomic { CAN_SEND(n) && ROOM && sees_mine[AT(n, 1)] && sees_free[AT(n, 0)] -> send(n, CLAIM, 1, 0) }
  /* All that is mine, to the other node. */
  :: atomic { CAN_SEND(n) && ROOM && moves > 0 && (sees_mine[AT(n, 0)] || sees_mine[AT(n, 1)]) ->
       moves--; send(n, HANDOVER, sees_mine[AT(n, 0)], sees_mine[AT(n, 1)]); to_inc[n] = inc[1 - n] }
  /* Its spec was deleted. */
  :: atomic { CAN_SEND(n) && moves > 0 && sees_mine[AT(n, 0)] -> moves--; send(n, RELEASE, 1, 0) }
  :: atomic { CAN_SEND(n) && moves > 0 && sees_mine[AT(n, 1)] -> moves--; send(n, RELEASE, 0, 1) }
  :: atomic { sent[n] != NOTHING -> arrive(n, n) }
  :: atomic { sent[LATE(n)] != NOTHING -> arrive(LATE(n), n) }
  :: atomic { sent[n] == CLAIM && sent[LATE(n)] == NOTHING ->
       sent[LATE(n)] = CLAIM; by[LATE(n)] = by[n];
       writes[AT(LATE(n), 0)] = writes[AT(n, 0)]; writes[AT(LATE(n), 1)] = writes[AT(n, 1)];
       compares[AT(LATE(n), 0)] = compares[AT(n, 0)]; compares[AT(LATE(n), 1)] = compares[AT(n, 1)];
       fits[AT(LATE(n), 0)] = fits[AT(n, 0)]; fits[AT(LATE(n), 1)] = fits[AT(n, 1)];
       forget(n) }
  :: atomic { fenced[inc[n]] && next_inc <= NODES + FENCES -> inc[n] = next_inc; next_inc++; newest[AT(n, 0)] = 0; newest[AT(n, 1)] = 0;
              sees_mine[AT(n, 0)] = 0; sees_mine[AT(n, 1)] = 0; sees_free[AT(n, 0)] = 0; sees_free[AT(n, 1)] = 0 }
  :: atomic { fences > 0 && !fenced[inc[n]] -> fences--; fenced[inc[n]] = 1; newest[AT(0, 0)] = 0; newest[AT(0, 1)] = 0; newest[AT(1, 0)] = 0; newest[AT(1, 1)] = 0 }
  od
}

proctype World() {
  do
  :: atomic { SPLIT -> printf("two nodes hold one dataset of the unit each\n"); assert(false) }
#ifdef REACH_BESIDE
  :: atomic { state[0] == HELD && state[1] == FREE && epoch[1] > 0 && sent[0] == CLAIM && writes[AT(0, 1)] && !writes[AT(0, 0)] && FITS(0, 0) && FITS(0, 1) -> printf("reached\n"); assert(false) }
#endif
#ifdef REACH_FAIL_OVER
  :: atomic { fenced[1] && holder[0] == 2 && holder[1] == 2 -> printf("reached\n"); assert(false) }
#endif
  od
}

init { atomic { inc[0] = 1; inc[1] = 2; run Node(0); run Node(1); run World() } }
