/* What etcd holds about one dataset, and the transactions on it (coordinator/protocol/ownership.py).

   A transaction compares the tenure's mod revision: `fits[n]` says that what node n has under way would still find it as
   it was.  Whoever writes the tenure moves it (`moved`), and with that nothing sent before can commit. */
#define ABSENT   0
#define ASSIGNED 1
#define ACTIVE   2
#define RELEASED 3
#define BIT(i)      (1 << (i))
#define HAS(set, i) ((set >> (i)) & 1)

/* Sets of incarnations.  fences: as they are in etcd; proven: those whose evidence lets others write; dead: that ever
   were fenced. */
short fences, proven, dead;
/* The tenure: epoch, state, incarnation, unfenced; leases/<d>: the epoch that it shows, 0 is absent; the spec is there. */
byte epoch = 1, state = ACTIVE, holder = 1;
short unfenced;
byte lease_record = 1;
bool spec = 1;
/* What each node has under way, sent by which incarnation, to whom. */
#define NOTHING  0
#define HANDOVER 1
#define RELEASE  2
#define CLAIM    3
#define REPUT    4
byte sent[N], by[N], to[N], to_inc[N];
bool fits[N];
/* Mine, and not newer than this life of the agent. */
bool stale[N];

#ifdef BAD_EPOCH_COMPARED   /* instead of the mod revision */
byte sent_epoch[N];
#define FITS(n) (epoch == sent_epoch[n] && (sent[n] == CLAIM || holder == by[n] && (state == ACTIVE || state == ASSIGNED)))
#else
#define FITS(n) (fits[n])
#endif
#ifdef BAD_OWN_FENCE_NOT_COMPARED
#define UNFENCED(i) true
#else
#define UNFENCED(i) (!HAS(fences, i))
#endif

inline moved() {
  fits[0] = 0; stale[0] = 0; fits[1] = 0; stale[1] = 0;
#if N > 2
  fits[2] = 0; stale[2] = 0;
#endif
}

/* The next epoch is i's.  Whoever has not released goes to `unfenced`. */
inline bind(i) { epoch++; holder = i; state = ASSIGNED; lease_record = epoch; moved() }

inline take(i) {
#ifdef BAD_LEASE_IS_DEATH
  if :: !HAS(fences, holder) -> state = RELEASED :: else fi;
#endif
  if :: (state == ACTIVE || NEEDS_CUT_ASSIGNED && state == ASSIGNED) -> unfenced = unfenced | BIT(holder) :: else fi;
  bind(i) }

inline hand_over(i) {
#ifdef BAD_UNFENCED_DROPPED
  unfenced = 0;
#endif
  bind(i) }

inline give_up() { state = RELEASED; lease_record = 0; moved() }

inline send(n, what) { sent[n] = what; by[n] = inc[n]; fits[n] = 1;
#ifdef BAD_EPOCH_COMPARED
  sent_epoch[n] = epoch
#else
  skip
#endif
}

inline forget(n) { sent[n] = NOTHING; by[n] = 0; to[n] = 0; to_inc[n] = 0; fits[n] = 0;
#ifdef BAD_EPOCH_COMPARED
  sent_epoch[n] = 0
#else
  skip
#endif
}

/* What was sent before cannot commit any more: as good as never sent. */
#ifdef BAD_EPOCH_COMPARED
#define void(n) skip
#else
#define void(n) forget(n)
#endif

/* What was sent reaches etcd: at any time later. */
inline arrive(n) {
  if
  :: FITS(n) && UNFENCED(by[n]) ->
     if
     :: sent[n] == HANDOVER && inc[to[n]] == to_inc[n] && !HAS(fences, to_inc[n]) && epoch < EPOCHS -> may_commit(n); hand_over(to_inc[n])
     :: sent[n] == RELEASE -> may_commit(n); give_up()
     :: sent[n] == CLAIM && HAS(leases, by[n]) && spec && epoch < EPOCHS -> may_commit(n); take(by[n])
     :: sent[n] == REPUT && lease_record == 0 -> may_commit(n); lease_record = epoch
     :: else
     fi
#ifdef BAD_REPUT_UNCOMPARED
  :: sent[n] == REPUT && !(FITS(n) && UNFENCED(by[n])) -> lease_record = to_inc[n]
#endif
  :: else
  fi;
  forget(n) }

inline may_commit(n) {
  if :: HAS(dead, by[n]) -> printf("a fenced incarnation has committed\n"); assert(false) :: else fi }

inline fence(i) { fences = fences | BIT(i); dead = dead | BIT(i) }
inline prove(i) { fence(i); proven = proven | BIT(i) }
