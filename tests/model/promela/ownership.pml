/* Ownership: nodes with one dataset, from claim to release, with faults.  See README.md.

   Rests on what the smaller models show: silence is fenced after the deadline only (session.pml), and what the ladder
   has stopped stays stopped (gate.pml).  So a deadline, and a ladder, is one step here.  A back end is either shared
   files (only the deadline keeps a node out) or, with EXCLUSIVE, a block device that one node at a time can have
   attached (the holder cuts others off; past its deadline a node goes on with what is mounted).

   Shown: at most one node can write; nobody writes in an old epoch once a newer one is active; an epoch belongs to one
   incarnation; after a fence no transaction of that incarnation commits; leases/<d> agrees with the tenure. */
#ifndef N
#define N 3
#endif
#ifndef FAULTS
#define FAULTS 1         /* crashes, restarts, lost state, early revocations, deleted specs, hung agents: in all */
#endif
#ifndef MOVES
#define MOVES 1          /* planned handovers and releases */
#endif
#ifndef EPOCHS
#define EPOCHS 3
#endif
#ifndef LIVES
#define LIVES 4          /* incarnations in all: the first N, and those of reboots and rejoins */
#endif
#ifndef ARMED
#define ARMED 1          /* a machine whose ladder does not succeed in time is reset */
#endif
#ifdef BAD_ASSIGNED_WRITES
#define NEEDS_CUT_ASSIGNED false
#else
#define NEEDS_CUT_ASSIGNED true
#endif

/* Nodes.  up: the machine runs; live: entitled, gate open; inc: incarnation; mounted: the epoch that it may write in. */
bool up[N], live[N];
byte inc[N], mounted[N];
/* What the agent believes: nothing; it is mine and active, in epoch `mine`; it has stopped using it; it has sent a
   handover or a release and does not know yet. */
#define NONE   0
#define OWNS   1
#define QUIET  2
#define ASKED  3
byte belief[N], mine[N];
byte faults = FAULTS, moves = MOVES, next_inc = N + 1;
short leases;            /* of sessions that etcd still holds */
byte owner_of[EPOCHS + 1];
#include "tenure.pml"
#define ACTS(n)    (up[n] && live[n] && !HAS(fences, inc[n]))
#define HOLDS(n)   (holder == inc[n] && (state == ASSIGNED || state == ACTIVE))
#ifdef BAD_NO_TOUCH_AFTER_RESTART
#define SETTLED_LIFE(n) true
#else
#define SETTLED_LIFE(n) (!stale[n])
#endif
#ifdef BAD_LEASE_IS_DEATH   /* a record whose lease has ended is taken for its holder's death */
#define DEAD(i) (HAS(fences, i) || lease_record == 0)
#else
#define DEAD(i) HAS(fences, i)
#endif
#ifdef BAD_ASSIGNED_WRITES  /* mkfs, fsck or mount before activate */
#define BELIEVES(n) (belief[n] == OWNS || belief[n] == NONE && holder == inc[n] && state == ASSIGNED && unfenced == 0)
#else
#define BELIEVES(n) (belief[n] == OWNS)
#endif
#ifdef BAD_KEEPS_ATTACHING  /* "goes on with what is mounted" taken for "goes on" */
#define ENTITLED(n) up[n]
#else
#define ENTITLED(n) (up[n] && live[n])
#endif

#ifdef EXCLUSIVE
#include "device.pml"
#else
#define CAN_WRITE(n)   (mounted[n] != 0)
#define MAY_MOUNT(n)   true
#define DETACHED(n)    true
#define SETTLED(n)     true
#define STOPPED(i)     HAS(proven, i)
#define KEEPS_RUNNING  false
#define unmount(n)     mounted[n] = 0
#endif

#define WRITES_LATE(n) (CAN_WRITE(n) && state == ACTIVE && mounted[n] != epoch)
#if N > 2
#define TWO_WRITERS (CAN_WRITE(0) && CAN_WRITE(1) || CAN_WRITE(0) && CAN_WRITE(2) || CAN_WRITE(1) && CAN_WRITE(2))
#define LATE_WRITER (WRITES_LATE(0) || WRITES_LATE(1) || WRITES_LATE(2))
#else
#define TWO_WRITERS (CAN_WRITE(0) && CAN_WRITE(1))
#define LATE_WRITER (WRITES_LATE(0) || WRITES_LATE(1))
#endif

inline ladder(n) { if :: !KEEPS_RUNNING -> mounted[n] = 0 :: else fi }
inline join(n) {         /* the next incarnation of this node; it has no belief yet, whatever its predecessor sent */
  inc[n] = next_inc; next_inc++; leases = leases | BIT(inc[n]); live[n] = 1; belief[n] = NONE; mine[n] = 0; stale[n] = 0 }
inline activate(n) {
  if :: owner_of[epoch] != 0 && owner_of[epoch] != inc[n] -> printf("two incarnations in one epoch\n"); assert(false) :: else fi;
  owner_of[epoch] = inc[n]; state = ACTIVE; belief[n] = OWNS; mine[n] = epoch; moved() }

proctype Node(byte n) {
  do
  /* The session. */
  :: atomic { up[n] && live[n] -> live[n] = 0; ladder(n) }
#if !ARMED
  :: atomic { up[n] && live[n] && faults > 0 -> faults--; live[n] = 0 }               /* agent and guard hang: nothing is stopped */
#endif
  :: atomic { up[n] && !live[n] && !HAS(fences, inc[n]) && (KEEPS_RUNNING || mounted[n] == 0) -> live[n] = 1 }
  :: atomic { up[n] && !live[n] && !KEEPS_RUNNING && mounted[n] != 0 -> mounted[n] = 0 }
  /* Claim: answered, or left under way. */
  :: atomic { ACTS(n) && spec && epoch < EPOCHS && holder != inc[n] && (state == RELEASED || state == ABSENT || DEAD(holder)) -> take(inc[n]) }
  :: atomic { ACTS(n) && spec && sent[n] == NOTHING && epoch < EPOCHS && holder != inc[n] && (state == RELEASED || state == ABSENT || DEAD(holder)) -> send(n, CLAIM) }
  /* Assigned: cut the earlier holders off, activate.  Active: mount. */
  :: atomic { ACTS(n) && HOLDS(n) && SETTLED_LIFE(n) && unfenced != 0 ->
       if
       :: HAS(unfenced, 1) && STOPPED(1) -> unfenced = unfenced & ~BIT(1)
       :: HAS(unfenced, 2) && STOPPED(2) -> unfenced = unfenced & ~BIT(2)
       :: HAS(unfenced, 3) && STOPPED(3) -> unfenced = unfenced & ~BIT(3)
       :: HAS(unfenced, 4) && STOPPED(4) -> unfenced = unfenced & ~BIT(4)
       :: HAS(unfenced, 5) && STOPPED(5) -> unfenced = unfenced & ~BIT(5)
       fi; moved() }
  :: atomic { ACTS(n) && HOLDS(n) && SETTLED_LIFE(n) && state == ASSIGNED && unfenced == 0 && belief[n] == NONE && SETTLED(n) -> activate(n) }
  :: atomic { ENTITLED(n) && BELIEVES(n) && SETTLED_LIFE(n) && mounted[n] == 0 && MAY_MOUNT(n) -> mounted[n] = (belief[n] == OWNS -> mine[n] : epoch) }
  /* Planned: stop using it, send, settle. */
  :: atomic { up[n] && live[n] && belief[n] == OWNS && SETTLED_LIFE(n) && (moves > 0 || !spec) -> unmount(n); belief[n] = QUIET }
  :: atomic { up[n] && live[n] && belief[n] == QUIET && spec -> belief[n] = OWNS }
  :: atomic { ACTS(n) && HOLDS(n) && SETTLED_LIFE(n) && sent[n] == NOTHING && DETACHED(n) && SETTLED(n) && (moves > 0 || !spec) &&
              (belief[n] == QUIET && mine[n] == epoch && state == ACTIVE || belief[n] == NONE && state == ASSIGNED) ->
       if :: moves > 0 -> moves-- :: else fi;
       if
       :: spec && n != 0 && up[0] -> send(n, HANDOVER); to[n] = 0; to_inc[n] = inc[0]
       :: spec && n != 1 && up[1] -> send(n, HANDOVER); to[n] = 1; to_inc[n] = inc[1]
#if N > 2
       :: spec && n != 2 && up[2] -> send(n, HANDOVER); to[n] = 2; to_inc[n] = inc[2]
#endif
       :: send(n, RELEASE)
       fi;
       mine[n] = epoch; belief[n] = ASKED }
  :: atomic { sent[n] != NOTHING -> arrive(n) }
  /* Settled by touch: no answer came. */
  :: atomic { up[n] && live[n] && belief[n] == ASKED && sent[n] != NOTHING && !(holder == inc[n] && epoch == mine[n] && HAS(fences, inc[n])) ->
       if
       :: holder == inc[n] && epoch == mine[n] ->
#ifndef BAD_SETTLED_BY_READING
          void(n); moved();
#endif
          belief[n] = (state == ACTIVE -> OWNS : NONE)
       :: else -> belief[n] = NONE
       fi;
       if :: belief[n] == NONE -> mine[n] = 0 :: else fi }
  /* The answer came. */
  :: atomic { up[n] && live[n] && belief[n] == ASKED && sent[n] == NOTHING ->
       belief[n] = (holder == inc[n] && epoch == mine[n] && state == ACTIVE -> OWNS : NONE);
       if :: belief[n] == NONE -> mine[n] = 0 :: else fi }
  /* Learns that it is over. */
  :: atomic { up[n] && (belief[n] == OWNS || belief[n] == QUIET) && (holder != inc[n] || epoch != mine[n] || state != ACTIVE || HAS(fences, inc[n])) ->
       belief[n] = NONE; mine[n] = 0; unmount(n); if :: HAS(fences, inc[n]) -> live[n] = 0 :: else fi }
  /* Its record is gone, though it lives. */
  :: atomic { ACTS(n) && HOLDS(n) && state == ACTIVE && belief[n] == OWNS && lease_record == 0 && sent[n] == NOTHING -> send(n, REPUT); to_inc[n] = epoch }
  /* A fenced incarnation whose machine is up: the ladder, then the next one.  Its fence says `stopped` now. */
  :: atomic { up[n] && HAS(fences, inc[n]) && next_inc <= LIVES ->
#ifndef BAD_JOIN_WITHOUT_LADDER
       unmount(n);
#endif
       prove(inc[n]); join(n) }
  /* The agent was started again in the same boot, and goes on as the same incarnation. */
  :: atomic { up[n] && live[n] && holder == inc[n] && state == ACTIVE && belief[n] == NONE && !HAS(fences, inc[n]) && sent[n] != CLAIM ->
#ifndef BAD_NO_TOUCH_AFTER_RESTART
       if :: stale[n] -> void(n); moved() :: else fi;
#endif
       belief[n] = OWNS; mine[n] = epoch }
  :: atomic { ACTS(n) && stale[n] && HOLDS(n) && state == ASSIGNED -> void(n); moved() }
  od
}

proctype Faults(byte n) {
  do
  :: atomic { faults > 0 && up[n] -> faults--; belief[n] = NONE; mine[n] = 0; stale[n] = 1 }     /* the agent starts again */
  :: atomic { faults > 0 && up[n] && next_inc <= LIVES -> faults--;                              /* its state is lost, too */
#ifndef BAD_JOIN_WITHOUT_LADDER
       unmount(n);
#endif
       prove(inc[n]); join(n) }
  :: atomic { faults > 0 && up[n] -> faults--; up[n] = 0; live[n] = 0; mounted[n] = 0; belief[n] = NONE; mine[n] = 0; stale[n] = 0 }
  :: atomic { !up[n] && next_inc <= LIVES -> prove(inc[n]); up[n] = 1; join(n) }                   /* it boots again */
  /* Others say that it is silent; an operator, that it is off. */
  :: atomic { !HAS(fences, inc[n]) && !live[n] -> fence(inc[n]);
#if ARMED || defined BAD_SILENCE_OF_UNARMED_PROVES
              proven = proven | BIT(inc[n])
#else
              skip
#endif
            }
#if !ARMED
  :: atomic { !up[n] && !HAS(proven, inc[n]) -> prove(inc[n]) }
#endif
  od
}

proctype World() {
  do
  /* A lease ends: too early, or once its incarnation is no more. */
  :: atomic { faults > 0 && lease_record != 0 -> faults--; lease_record = 0 }
  :: atomic { faults > 0 && spec -> faults--; spec = 0;
#ifdef BAD_TENURE_DELETED
       epoch = 0; state = ABSENT; holder = 0; unfenced = 0; lease_record = 0; moved()
#else
       skip
#endif
     }
  :: atomic { !spec -> spec = 1 }
#ifdef COLLECT
#ifdef BAD_COLLECTED_AT_ONCE
#define OUTLIVED(i) true
#else
#define OUTLIVED(i) (!HAS(leases, i))
#endif
#define LEFT_BEHIND(i) (HAS(fences, i) && inc[0] != i && inc[1] != i && inc[N - 1] != i)
#define NAMED(i)       (holder == i || HAS(unfenced, i))
  /* Fences are collected: no tenure names the incarnation, its node beats in another one, and it was so ten minutes ago. */
  :: atomic { LEFT_BEHIND(1) && HAS(leases, 1) -> leases = leases & ~BIT(1) }
  :: atomic { LEFT_BEHIND(2) && HAS(leases, 2) -> leases = leases & ~BIT(2) }
  :: atomic { LEFT_BEHIND(1) && !NAMED(1) && OUTLIVED(1) -> fences = fences & ~BIT(1) }
  :: atomic { LEFT_BEHIND(2) && !NAMED(2) && OUTLIVED(2) -> fences = fences & ~BIT(2) }
#endif
  :: atomic { TWO_WRITERS -> printf("two nodes can write\n"); assert(false) }
  :: atomic { LATE_WRITER -> printf("a node can write in an old epoch\n"); assert(false) }
  :: atomic { lease_record != 0 && lease_record != epoch -> printf("leases/<d> contradicts the tenure\n"); assert(false) }
#ifdef REACH_FAIL_OVER
  :: atomic { HAS(fences, 1) && state == ACTIVE && holder == 2 && mounted[1] == epoch -> printf("reached\n"); assert(false) }
#endif
#ifdef REACH_HANDOVER
  :: atomic { dead == 0 && state == ACTIVE && holder == 2 && mounted[1] == epoch -> printf("reached\n"); assert(false) }
#endif
#ifdef REACH_TWO_TO_CUT_OFF
  :: atomic { state == ASSIGNED && epoch == 3 && unfenced == 6 -> printf("reached\n"); assert(false) }
#endif
#ifdef REACH_RAISED
  :: atomic { HAS(unfenced, 1) && HAS(proven, 1) && dead != 0 && inc[0] == 1 -> printf("reached\n"); assert(false) }
#endif
#ifdef REACH_COLLECTED
  :: atomic { HAS(dead, 1) && !HAS(fences, 1) && sent[0] == CLAIM && by[0] == 1 -> printf("reached\n"); assert(false) }
#endif
  od
}

init { atomic {
  byte k = 0;
  do :: k < N -> inc[k] = k + 1; up[k] = 1; live[k] = 1; leases = leases | BIT(k + 1); run Node(k); run Faults(k);
#ifdef EXCLUSIVE
    run Device(k);
#endif
     k++ :: else -> break od;
  k = 0;
  belief[0] = OWNS; mine[0] = 1; owner_of[1] = 1; mounted[0] = 1;
  run World() } }
