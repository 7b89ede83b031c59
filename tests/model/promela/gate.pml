/* The gate: one node with its agent, its guard, a helper and `testify`, who meet on the shared page.  See README.md.

   Each statement is one load or store of the page, so they meet in every order there is.  Shown: what is verified (page:
   closed, the round has ended, nothing is left) is true; a job that was decided on before the ladder does nothing after
   it; and what a fence proves is true when it is written, and stays so.

   Time: a heartbeat is a number; soft and hard are the newest ones whose D_soft and D_hard have passed.  A process that
   is slow or stopped takes no step.  A killed one may do more until it has left: SIGKILL waits for the kernel. */
#ifndef BEATS
#define BEATS 3          /* heartbeats of this node in all, the first one counted */
#endif
#ifndef DEATHS
#define DEATHS 1         /* how often the guard is killed */
#endif
#ifndef ROUNDS
#define ROUNDS 3         /* of the ladder, the first one counted */
#endif

/* The page: fields of the agent, then of the guard (agent/guard/page.py). */
byte sent = 1, asked, open_for;
bool open, verified;
byte round = 1, began, done, sworn;
#ifdef BAD_LEFT_STANDS_FOR_VERIFIED
byte remains;
#endif
/* Files: the ladder's record, and the incarnation in the agent's session.json. */
byte record_round, record_inc, saved = 1;
/* The newest heartbeat that was sent; in etcd: the newest heartbeat and its incarnation; the newest incarnation whose fence proves that it has stopped. */
byte issued = 1, beat = 1, beat_inc = 1, fenced;
/* The agent's incarnation; the newest round that ended with nothing left. */
byte inc = 1, cleared;
byte soft, hard, deaths = DEATHS;
bool on = true, kill_guard, testify;
/* The helper. */
#define IDLE     0
#define GIVEN    1       /* a job, and the round that it was decided on in */
#define INSIDE   2       /* the dataset's cgroup */
#define LOOKED   3       /* the gate was open, and the deadline ahead */
#define ADMITTED 4       /* may write */
#define OUTSIDE  5       /* admitted before it has entered: a known-bad variant */
byte helper, job_round, job_inc;
bool child;              /* a program that the helper has started: inside, too, and may outlive it */

#define PASSED(b)  (b <= soft)
#ifdef BAD_LEFT_STANDS_FOR_VERIFIED  /* closed and no round begun is clean: a guard may die between the two */
#define VERIFIED   (remains == 0)
#else
#define VERIFIED   verified
#endif
#define CLEAN      (!open && done == round && VERIFIED)
#define EMPTY      (!child && (helper < INSIDE || helper == OUTSIDE))
#define MAY_WRITE  (helper == ADMITTED || child)

proctype Agent() {
  byte r;
  do
  /* A heartbeat is sent; committed; and answered, each some time later or never. */
  :: atomic { on && issued == beat && issued < BEATS && fenced < inc && beat_inc == inc -> issued++ }
  :: atomic { on && issued > beat && fenced < inc && beat_inc == inc -> beat = issued }
  :: atomic { on && sent < beat && fenced < inc && beat_inc == inc -> sent = beat }
  /* It has lapsed or ended, or was started again: close the gate, whatever the deadline. */
  :: on && round < ROUNDS && asked <= done -> open_for = 0; r = round; asked = r + 1; r = 0
  /* Nothing is left of what was here. */
  :: on && open_for == 0 && CLEAN && done >= asked ->
     if
     :: atomic { !PASSED(sent) && fenced < inc && beat_inc == inc -> r = round }; open_for = r; r = 0
     :: issued < BEATS && asked > 0 ->                       /* join anew; the fence says `stopped` */
        saved = inc + 1;
        atomic { if :: fenced < inc -> fenced = inc :: else fi; inc++; issued++; beat = issued; beat_inc = inc };
        sent = beat
     fi
  :: atomic { on && open && fenced < inc && helper == IDLE && !child -> job_round = round; job_inc = inc; helper = GIVEN }
  od
}

proctype Helper() {
  do
#ifdef BAD_CHECK_BEFORE_ENTER
  :: atomic { on && helper == GIVEN && open && job_round == round && !PASSED(sent) -> helper = OUTSIDE }
  :: atomic { on && helper == OUTSIDE -> helper = ADMITTED }
#else
  :: atomic { on && helper == GIVEN -> helper = INSIDE }
  :: atomic { on && helper == INSIDE && open && !PASSED(sent) -> helper = LOOKED }
#ifdef BAD_ROUND_NOT_COMPARED
  :: atomic { on && helper == LOOKED -> helper = ADMITTED }
#else
  :: atomic { on && helper == LOOKED && job_round == round -> helper = ADMITTED }
#endif
#endif
  :: atomic { on && helper == ADMITTED && !child -> child = 1 }
  :: atomic { on && MAY_WRITE ->
       if :: job_inc <= fenced -> printf("writes, and its fence says that it has stopped\n"); assert(false) :: else fi;
       if :: job_round < cleared -> printf("writes, decided on before the ladder\n"); assert(false) :: else fi }
  /* It ends: done, refused or killed. */
  :: atomic { on && child -> child = 0; if :: helper == IDLE -> job_round = 0; job_inc = 0 :: else fi }
  :: atomic { on && helper != IDLE -> helper = IDLE; if :: !child -> job_round = 0; job_inc = 0 :: else fi }
  od
}

/* Page.begin_round.  The time is read after the round is on the page: whoever found the round before on it has read a
   heartbeat that was sent before that time. */
inline begin_round() {
  open = 0;
#ifdef BAD_BEGAN_WHEN_LOOKED
  began = looked;
#endif
  if :: done >= round -> round++ :: else fi;
#ifndef BAD_BEGAN_WHEN_LOOKED
  began = issued
#endif
}

/* Sends SIGKILL to all inside, again and again, until the cgroup is empty or time is up. */
inline kill_until_empty() {
#ifdef BAD_ONE_PASS      /* waits for those that it has listed and killed; what they had started meanwhile goes on */
  atomic { listed = (helper >= INSIDE && helper != OUTSIDE && !child) };
  if
  :: EMPTY || listed && (helper < INSIDE || helper == OUTSIDE) -> l = 0
  :: l = 1
  fi
#else
#ifdef BAD_KILLED_IS_GONE
  l = 0
#else
  if
  :: EMPTY -> l = 0
  :: l = 1
  fi
#endif
#endif
}

#ifdef BAD_OPENS_ON_AN_OLD_BEAT
#define MAY_OPEN(passed, w, s) (!open && w == round && !passed)
#else
#define MAY_OPEN(passed, w, s) (!open && w == round && !passed && s > began)
#endif
#ifdef BAD_OPENS_AFTER_THE_OATH
#define SWORN false
#else
#define SWORN (sworn == round)
#endif
#define MUST_CLIMB(passed, a) (open && passed || a > round || !open && (done < round || !VERIFIED))
#define MAY_SWEAR (CLEAN && sworn != round)

/* agent/guard/duty.py and main.py. */
proctype Guard() {
  byte asks, wants, heard, l;
  bool passed;
#ifdef BAD_ONE_PASS
  bool listed;
#endif
#ifdef BAD_BEGAN_WHEN_LOOKED
  byte looked;
#endif
start:
  {
    do
    /* A look at the page; what is done about it comes later. */
    :: atomic { on && (MUST_CLIMB(PASSED(sent), asked) || MAY_OPEN(PASSED(sent), open_for, sent) || MAY_SWEAR) ->
                passed = PASSED(sent); asks = asked; wants = open_for; heard = sent;
#ifdef BAD_BEGAN_WHEN_LOOKED
                looked = issued
#endif
              };
       if
       :: MUST_CLIMB(passed, asks) || MAY_OPEN(passed, wants, heard) && SWORN ->
          if :: round >= ROUNDS && done >= round -> goto spent :: else fi;
#ifdef BAD_KILL_BEFORE_CLOSE
          kill_until_empty(); begin_round();
#else
          begin_round(); kill_until_empty();
#endif
          atomic { record_round = round; record_inc = saved };
#ifdef BAD_LEFT_STANDS_FOR_VERIFIED
          remains = l;
#endif
          verified = (l == 0);
          atomic { done = round; if :: l == 0 -> cleared = round :: else fi }
       :: MAY_SWEAR && !MUST_CLIMB(passed, asks) ->                /* the agent seems to be dead */
          sworn = round; testify = 1
       :: MAY_OPEN(passed, wants, heard) && !SWORN && !MUST_CLIMB(passed, asks) ->
          verified = 0;
          open = 1
       :: else
       fi;
       atomic { asks = 0; wants = 0; heard = 0; l = 0; passed = 0 }
    od
  } unless { atomic { kill_guard -> kill_guard = 0; asks = 0; wants = 0; heard = 0; l = 0; passed = 0 } };
  goto start;
spent:
  skip
}

/* The process that says for a dead agent that this node has stopped (agent/testify.py). */
proctype Testify() {
  byte b, i;
  do
  :: atomic { on && testify -> testify = 0; b = beat; i = beat_inc };
     if
     :: atomic { CLEAN && record_round == round && sworn == round && record_inc == i } ->
#ifdef BAD_TESTIFY_UNCOMPARED
        atomic { if :: on && fenced < i -> fenced = i :: else fi }
#else
        atomic { if :: on && beat == b && fenced < i -> fenced = i :: else fi }
#endif
     :: else
     fi;
     atomic { b = 0; i = 0 }
  od
}

/* Time, the watchdog, the observers on other nodes, and whoever kills the guard. */
proctype World() {
  do
  :: atomic { on && soft < beat -> soft++ }
#ifdef BAD_NO_RESET
  :: atomic { on && hard < soft -> hard++ }
#else
  :: atomic { on && hard < soft -> hard++; if :: sent <= hard && !verified -> on = 0 :: else fi }
#endif
  :: atomic { on && beat <= hard && fenced < beat_inc -> fenced = beat_inc }       /* silence of an armed incarnation */
  :: atomic { on && deaths > 0 && !kill_guard -> deaths--; kill_guard = 1 }
  :: atomic { on && CLEAN && MAY_WRITE -> printf("something may write, and the page says that nothing is left\n"); assert(false) }
#ifdef REACH_OPEN_AGAIN
  :: atomic { round > 1 && inc == 1 && helper == ADMITTED && job_round == round -> printf("reached\n"); assert(false) }
#endif
#ifdef REACH_JOINED_ANEW
  :: atomic { job_inc == 2 && helper == ADMITTED -> printf("reached\n"); assert(false) }
#endif
#ifdef REACH_TESTIMONY
  :: atomic { fenced == inc && beat > hard && cleared > 1 && asked == 0 -> printf("reached\n"); assert(false) }
#endif
#ifdef REACH_RESET
  :: atomic { !on && MAY_WRITE -> printf("reached\n"); assert(false) }
#endif
#ifdef REACH_GUARD_DIED_CLIMBING
  :: atomic { on && kill_guard && !open && done < round && round > 1 && MAY_WRITE -> printf("reached\n"); assert(false) }
#endif
  od
}

init { atomic { run Agent(); run Guard(); run Helper(); run Testify(); run World() } }
