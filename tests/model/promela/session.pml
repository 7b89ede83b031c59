/* The session: heartbeats under one node's name, an observer, and another machine that wants the name.  See README.md.

   Shown: an incarnation that is fenced for silence has passed its own deadline, and never comes to believe otherwise; and
   who gives way to another incarnation under its name is fenced.  Time is ticks of clocks that run alike. */
#ifndef D
#define D 2              /* ticks from sending a heartbeat to the end of all writing */
#endif
#ifndef W
#define W 3              /* ticks of standing still, from receiving it, after which it is silence */
#endif
#ifndef RESTARTS
#define RESTARTS 1       /* of agents, in the same boot */
#endif
#ifndef CRASHES
#define CRASHES 1        /* of the first machine, which boots again */
#endif
#ifndef DELETIONS
#define DELETIONS 1      /* of heartbeats/<n>, by whomever */
#endif
#define TRIES 2          /* heartbeats under way at the same time: each has its time limit, the next goes elsewhere */
#define LAST 3           /* incarnations: the first, the other machine's, the first machine's after its reboot */

/* etcd.  heartbeats/<n>: whose it is (0: missing), whether a placeholder, how long ago it was sent, and by which try of
   its sender (TRIES: by none that the sender still knows). */
byte beat = 1, beat_age, beat_try = TRIES;
bool placeholder, fenced[LAST + 1];
/* Two machines.  inc: 0 is none; age: ticks since the newest heartbeat was sent that it knows to have committed;
   current: whether it knows the newest revision; life: an answer since its agent was started. */
byte inc[2], age[2];
bool current[2], life[2], ended[2];
/* Tries under way.  fits: the revision that it compares is still the newest. */
#define FREE 0
#define SENT 1
#define COMMITTED 2
#define ORPHAN 3         /* sent by an agent that has ended since */
byte try[2 * TRIES], try_age[2 * TRIES];
bool fits[2 * TRIES];
/* The observer: how long its revision has stood still, whether that is the newest; absent: how long it saw none. */
byte still, absent;
bool seen = true;
/* The join of the second machine: read, waiting; sent. */
byte join_wait, join_age;
bool join_read, join_current, join_sent;
byte restarts = RESTARTS, crashes = CRASHES, deletions = DELETIONS;

#define T(m, k)  (m * TRIES + k)
#define LIVE(m)  (inc[m] != 0 && life[m] && !ended[m] && age[m] < D)
#define MIN(a, b) (a < b -> a : b)

inline moved() {         /* the revision of heartbeats/<n> */
  fits[0] = 0; fits[1] = 0; fits[2] = 0; fits[3] = 0;
  current[0] = 0; current[1] = 0;
  seen = 0; join_current = 0 }

inline commit(m, k) {
  moved();
  beat = inc[m]; placeholder = 0; beat_age = try_age[T(m, k)];
  if :: try[T(m, k)] == SENT -> try[T(m, k)] = COMMITTED; beat_try = k
     :: else -> try[T(m, k)] = FREE; try_age[T(m, k)] = 0; beat_try = TRIES fi }

inline forget(m, k) { try[T(m, k)] = FREE; try_age[T(m, k)] = 0; fits[T(m, k)] = 0 }

inline confirmed(m, k) { /* that heartbeat is in etcd: the deadline counts from when it was sent */
#ifdef BAD_COUNTED_FROM_ANSWER
  age[m] = 0;
#else
  age[m] = MIN(age[m], try_age[T(m, k)]);
#endif
  life[m] = 1; forget(m, k) }

inline refused(m, k) {   /* the answer says no, and what is there */
  forget(m, k);
  if
  :: fenced[inc[m]] || beat != 0 && beat != inc[m] -> ended[m] = 1
  :: else ->
     current[m] = 1;
     if :: beat == inc[m] && !placeholder && beat_try < TRIES ->
           if :: try[T(m, beat_try)] == COMMITTED -> confirmed(m, beat_try) :: else fi
        :: else fi
  fi }

inline end_agent(m) {
  byte k;
  k = 0;
  do :: k < TRIES -> if :: try[T(m, k)] == SENT && fits[T(m, k)] -> try[T(m, k)] = ORPHAN :: else -> forget(m, k) fi; k++
     :: else -> break od;
  k = 0; life[m] = 0; current[m] = 0;
  if :: beat == inc[m] -> beat_try = TRIES :: else fi }

#define BEATS(m, k) \
  :: atomic { inc[m] != 0 && !ended[m] && beat_known(m) && try[T(m, k)] == FREE -> try[T(m, k)] = SENT; try_age[T(m, k)] = 0; fits[T(m, k)] = current[m] } \
  :: atomic { (try[T(m, k)] == SENT || try[T(m, k)] == ORPHAN) && fits[T(m, k)] && !fenced[inc[m]] -> commit(m, k) } \
  :: atomic { try[T(m, k)] == SENT && (!fits[T(m, k)] || fenced[inc[m]]) -> if :: ended[m] -> forget(m, k) :: else -> refused(m, k) fi } \
  :: atomic { try[T(m, k)] == COMMITTED -> if :: ended[m] -> forget(m, k) \
                                              :: else -> current[m] = (beat == inc[m] && beat_try == k); confirmed(m, k) fi } \
  :: atomic { try[T(m, k)] == ORPHAN && !fits[T(m, k)] -> forget(m, k) }
/* An agent that was started again has read its heartbeat before it sends one. */
#define beat_known(m) (life[m] || current[m])

proctype Machine(bit m) {
  do
  BEATS(m, 0)
  BEATS(m, 1)
  /* The agent ends and is started again in the same boot: it goes on, counted from its last heartbeat. */
  :: atomic { inc[m] != 0 && !ended[m] && restarts > 0 -> restarts--; end_agent(m) }
  :: atomic { inc[m] != 0 && !ended[m] && !life[m] && !current[m] && beat == inc[m] && !fenced[inc[m]] -> current[m] = 1;
#ifdef BAD_RESUMED_FROM_NOW
              age[m] = 0
#else
              age[m] = (placeholder -> D : beat_age)
#endif
            }
  od
}

/* Under this name. */
inline takes_over(i) {
#ifndef BAD_NO_FENCE_AT_JOIN
  if :: beat != 0 -> fenced[beat] = 1 :: else fi;
#endif
  moved(); beat = i; placeholder = 0; beat_try = TRIES }

proctype Others() {
  do
  /* The observer receives the newest revision, sooner or later; and fences. */
  :: atomic { !seen && beat != 0 -> seen = 1; still = 0; absent = 0 }
#ifdef BAD_FENCE_UNCOMPARED
  :: atomic { still >= W && beat != 0 && !fenced[beat] -> fenced[beat] = 1 }
#else
  :: atomic { still >= W && seen && beat != 0 && !fenced[beat] -> fenced[beat] = 1 }
#endif
#ifdef BAD_MISSING_IS_SILENCE
  :: atomic { beat == 0 && absent >= W && !fenced[1] -> fenced[1] = 1 }
#else
  :: atomic { beat == 0 && !fenced[1] && inc[1] == 0 -> moved(); beat = 1; placeholder = 1; beat_try = TRIES; beat_age = D }
#endif
  /* The other machine reads, waits, and joins if nothing has moved; how long its request takes, nobody knows. */
  :: atomic { inc[1] == 0 && !join_read && !join_sent && beat != 0 -> join_read = 1; join_current = 1; join_wait = 0 }
#ifdef BAD_JOIN_AT_ONCE      /* another boot, so its predecessor is dead: of whichever machine */
  :: atomic { join_read && !join_sent -> join_sent = 1; join_age = 0 }
#else
  :: atomic { join_read && !join_sent && (join_wait >= W || beat != 0 && fenced[beat]) -> join_sent = 1; join_age = 0 }
#endif
  :: atomic { join_sent && join_current && inc[1] == 0 && beat != 0 -> inc[1] = 2; age[1] = join_age; beat_age = join_age; takes_over(2);
              current[1] = 1; life[1] = 1; join_sent = 0; join_read = 0; join_current = 0; join_age = 0; join_wait = 0 }
  :: atomic { join_read && !join_current -> join_read = 0; join_sent = 0; join_wait = 0; join_age = 0 }
  /* Faults. */
  :: atomic { crashes > 0 && inc[0] != 0 -> crashes--; end_agent(0); forget(0, 0); forget(0, 1); ended[0] = 1; age[0] = D; life[0] = 0 }
  :: atomic { ended[0] && crashes < CRASHES && inc[0] == 1 && beat == 1 -> takes_over(3); beat_age = 0; inc[0] = 3; ended[0] = 0; age[0] = 0; life[0] = 1; current[0] = 1 }
  :: atomic { deletions > 0 && beat != 0 -> deletions--; moved(); beat = 0; placeholder = 0; beat_try = TRIES; beat_age = D }
  od
}

#define OLDER(x, most) if :: x < most -> x++ :: else fi
proctype Clock() {
  do
  :: atomic { OLDER(age[0], D); OLDER(age[1], D); OLDER(beat_age, D); OLDER(still, W);
              if :: beat == 0 -> OLDER(absent, W) :: else fi;
              if :: join_read && !join_sent -> OLDER(join_wait, W) :: else fi;
              if :: join_sent -> OLDER(join_age, D) :: else fi;
              if :: try[0] != FREE -> OLDER(try_age[0], D) :: else fi;
              if :: try[1] != FREE -> OLDER(try_age[1], D) :: else fi;
              if :: try[2] != FREE -> OLDER(try_age[2], D) :: else fi;
              if :: try[3] != FREE -> OLDER(try_age[3], D) :: else fi }
  :: atomic { (LIVE(0) && fenced[inc[0]] || LIVE(1) && fenced[inc[1]]) -> printf("fenced, and its deadline lies ahead\n"); assert(false) }
  :: atomic { LIVE(0) && LIVE(1) -> printf("two machines under one name\n"); assert(false) }
  :: atomic { beat > 1 && !fenced[1] || beat == 2 && inc[0] == 3 && !fenced[3] || beat == 3 && inc[1] == 2 && !fenced[2] -> printf("replaced and not fenced\n"); assert(false) }
#ifdef REACH_NAME_TAKEN_OVER
  :: atomic { LIVE(1) -> printf("reached\n"); assert(false) }
#endif
#ifdef REACH_REBOOTED
  :: atomic { inc[0] == 3 && LIVE(0) && fenced[1] -> printf("reached\n"); assert(false) }
#endif
#ifdef REACH_RESUMED
  :: atomic { restarts == 0 && LIVE(0) && inc[0] == 1 -> printf("reached\n"); assert(false) }
#endif
#ifdef REACH_PLACEHOLDER_FENCED
  :: atomic { placeholder && fenced[1] -> printf("reached\n"); assert(false) }
#endif
  od
}

init { atomic { inc[0] = 1; current[0] = 1; life[0] = 1; run Machine(0); run Machine(1); run Others(); run Clock() } }
