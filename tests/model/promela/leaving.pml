/* A machine that shuts down, and perhaps changes its mind (coordinator/depart.py): one incarnation, one dataset, what is
   under way to and from it.  See README.md.

   Shown: who is fenced because it has left writes nothing; and who has vanished holds nothing, nor ever will.  Rests on
   session.pml for silence, and on gate.pml for the ladder, which is one step here. */
#ifndef CALLS_OFF
#define CALLS_OFF 1      /* new starts of the agent in the same boot, at any moment */
#endif
#define RUNS     0
#define STOPPED  1       /* sends nothing more; the ladder has verified that nothing is left */
#define READ     2       /* its lease is gone, and it has read what it keeps */
#define GONE     3
byte phase = RUNS;
#define MISSING  0
#define BEATS    1
#define LEFT     2
byte beat = BEATS;       /* heartbeats/<n> */
bool lease = 1, fenced, kept, entitled = 1, writes;
#define NOBODY 0
#define MINE   1
#define OTHERS 2
byte holder = MINE;
/* Under way: my claim and another's handover to me, bound to the lease of then; my heartbeat, my last one, and a fence
   by who has waited for me, each of which compares the heartbeat's revision. */
bool claim, claim_bound, give, give_bound, next, next_fits, last, last_kept, last_fits, fence, fence_fits;
byte calls_off = CALLS_OFF;

inline moved() { next_fits = 0; last_fits = 0; fence_fits = 0 }

proctype Node() {
  do
  :: atomic { phase == RUNS && lease && holder == NOBODY && !claim -> claim = 1; claim_bound = 1 }
  :: atomic { phase == RUNS && beat != MISSING && !fenced && !next -> next = 1; next_fits = 1 }
  :: atomic { phase == RUNS && entitled && !fenced && holder == MINE && !writes -> writes = 1 }
  :: atomic { phase == RUNS && writes -> writes = 0; holder = (holder == MINE && !fenced -> NOBODY : holder) }
  :: atomic { phase == RUNS && fenced -> writes = 0; entitled = 0 }
  /* It leaves: the ladder; the lease; what it holds; the last word. */
  :: atomic { phase == RUNS -> phase = STOPPED; entitled = 0;
#ifndef BAD_SAID_BEFORE_THE_LADDER
       writes = 0
#endif
     }
#ifdef BAD_READ_BEFORE_THE_LEASE_IS_GONE
  :: atomic { phase == STOPPED -> kept = (holder == MINE); phase = READ }
  :: atomic { phase == READ && lease -> lease = 0; claim_bound = 0; give_bound = 0 }
#else
  :: atomic { phase == STOPPED && lease -> lease = 0; claim_bound = 0; give_bound = 0 }
#ifdef BAD_READ_OF_THE_PAST
  :: atomic { phase == STOPPED && !lease -> if :: kept = (holder == MINE) :: kept = 0 fi; phase = READ }
#else
  :: atomic { phase == STOPPED && !lease -> kept = (holder == MINE); phase = READ }
#endif
#endif
  :: atomic { phase == READ && !lease && !last && beat != MISSING && !fenced -> last = 1; last_kept = kept; last_fits = 1 }
  :: atomic { phase == READ && !lease && (beat == LEFT || beat == MISSING || fenced) -> phase = GONE }
  /* Its agent starts again: it goes on as the same one, where it has not vanished and is not fenced. It is here for others
     once its heartbeat, compared with the one before, has committed. */
  :: atomic { calls_off > 0 && phase != RUNS && beat != MISSING && !fenced -> calls_off--; phase = RUNS; kept = 0;
#ifdef BAD_HERE_BEFORE_ITS_BEAT
       lease = 1;
#endif
#ifdef BAD_ENTITLED_BY_AN_OLD_BEAT
       entitled = 1
#endif
     }
  od
}

proctype Others() {
  do
  :: atomic { holder == NOBODY -> holder = OTHERS }
  :: atomic { holder == MINE && fenced -> holder = OTHERS }
  :: atomic { holder == OTHERS && lease && !fenced && !give -> give = 1; give_bound = 1 }
  :: atomic { beat == LEFT && !fence && !fenced -> fence = 1; fence_fits = 1 }
  od
}

proctype Etcd() {
  do
  :: atomic { claim -> if :: claim_bound && lease && !fenced && holder == NOBODY -> holder = MINE :: else fi; claim = 0; claim_bound = 0 }
  :: atomic { give -> if :: give_bound && lease && !fenced && holder == OTHERS -> holder = MINE :: else fi; give = 0; give_bound = 0 }
  :: atomic { next && next_fits && !fenced -> beat = BEATS; moved(); next = 0; if :: phase == RUNS -> entitled = 1; lease = 1 :: else fi }
  :: atomic { next && (!next_fits || fenced) -> next = 0; next_fits = 0 }
#ifdef BAD_LAST_UNCOMPARED
  :: atomic { last && !fenced -> beat = (last_kept -> LEFT : MISSING); moved(); last = 0 }
#else
  :: atomic { last && last_fits && !fenced -> beat = (last_kept -> LEFT : MISSING); moved(); last = 0 }
#endif
  :: atomic { last && (!last_fits || fenced) -> last = 0; last_fits = 0 }
#ifdef BAD_FENCE_UNCOMPARED
  :: atomic { fence -> fenced = 1; fence = 0 }
#else
  :: atomic { fence && fence_fits -> fenced = 1; fence = 0; fence_fits = 0 }
#endif
  :: atomic { fence && !fence_fits -> fence = 0 }
  :: atomic { fenced && writes -> printf("fenced because it has left, and it writes\n"); assert(false) }
  :: atomic { beat == MISSING && holder == MINE -> printf("it has vanished, and holds the dataset\n"); assert(false) }
#ifdef REACH_LEFT_AND_FENCED
  :: atomic { fenced && holder == OTHERS -> printf("reached\n"); assert(false) }
#endif
#ifdef REACH_CALLED_OFF
  :: atomic { calls_off == 0 && writes && last -> printf("reached\n"); assert(false) }
#endif
#ifdef REACH_VANISHED
  :: atomic { beat == MISSING && claim -> printf("reached\n"); assert(false) }
#endif
  od
}

init { atomic { run Node(); run Others(); run Etcd() } }
