/* A block device that one node at a time can have attached, behind an API whose calls may be carried out late, or twice.

   A detach names the node, so a late one takes the device from that node only.  Once detached, what was mounted is dead:
   when the device comes back, it has to be mounted again.  Included by ownership.pml with EXCLUSIVE. */
#ifndef REPEATS
#define REPEATS 1        /* calls that are carried out a second time, later */
#endif
#define NOBODY N
byte attached = 0, repeats = REPEATS;
bool attaching[N];       /* calls under way: to attach it to the caller; to detach it from a node (number + 1) */
byte detaching[N];

#define CAN_WRITE(n)   (mounted[n] != 0 && attached == n)
#define MAY_MOUNT(n)   (attached == n)
#define DETACHED(n)    (attached != n)
#ifdef BAD_ACCEPTED_IS_DONE     /* the API has accepted the call, so it is done */
#define SETTLED(n)     true
#define STOPPED(i)     (attached == n || attached == NOBODY || detaching[n] == attached + 1)
#else
#define SETTLED(n)     (!attaching[n] && detaching[n] == 0)
#define STOPPED(i)     (attached == n || attached == NOBODY)
#endif
#define KEEPS_RUNNING  true
#define unmount(n)     mounted[n] = 0

proctype Device(byte n) {
  do
  /* Attach, for what is mine and active, before D_soft. */
  :: atomic { ENTITLED(n) && BELIEVES(n) && SETTLED_LIFE(n) && attached != n && !attaching[n] -> attaching[n] = 1 }
  :: atomic { attaching[n] ->
       if :: attached == NOBODY -> attached = n :: else fi;
       if :: attaching[n] = 0 :: repeats > 0 -> repeats-- fi }
  /* Detach: from whoever has it and does not hold it, for as long as that is so; and before giving it away. */
  :: atomic { ACTS(n) && HOLDS(n) && SETTLED_LIFE(n) && attached != n && attached != NOBODY && detaching[n] == 0 -> detaching[n] = attached + 1 }
  :: atomic { up[n] && live[n] && belief[n] == QUIET && attached == n && detaching[n] == 0 -> detaching[n] = n + 1 }
  :: atomic { detaching[n] != 0 ->
       if :: attached == detaching[n] - 1 -> mounted[attached] = 0; attached = NOBODY :: else fi;
       if :: detaching[n] = 0 :: repeats > 0 -> repeats-- fi }
  od
}
