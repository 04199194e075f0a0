/* The barrier of kernels/barrier.py and the exchange of h (backward, of gate gradients) in kernels/persistent.py.
 *
 * PROGRAMS programs of THREADS threads each take STEPS steps. In each a program waits for the arrivals of the step
 * before, each of its threads reads every part of h, then stores its own, and the program arrives.
 *
 * Memory is relaxed: a store is seen by another thread only where a chain of releases, acquires and block-wide barriers
 * leads from one to the other. A part of h is written by one thread alone, so that its stores are numbered, and a
 * thread's view is the number of the last store to each part that it must see. It may read that one or any later: a read
 * is right if the store expected is both the oldest that it may read and the newest there is. Additions to the counter
 * pass on the views released by those before them (a release sequence). An acquiring poll may return any count: the
 * lowest that ends the wait teaches it least, so that is the one taken.
 *
 * Not modelled: loads that are completed after later stores of their thread. The release keeps them in order.
 *
 * Faults to plant: -DNO_RELEASE, -DNO_ACQUIRE, -DNO_BARRIER_BEFORE, -DNO_BARRIER_AFTER, -DSLOTS=1 (one place for the h of
 * all steps; the kernels have one for each, as outputs), -DFEWER_ARRIVALS (the wait is over one arrival early).
 */
#ifndef PROGRAMS
#define PROGRAMS 3
#endif
#ifndef THREADS
#define THREADS 2
#endif
#ifndef STEPS
#define STEPS 3
#endif
#ifndef SLOTS
#define SLOTS STEPS
#endif
#define PARTS (PROGRAMS * THREADS)
#define WIDTH (SLOTS * PARTS)

/* Views: rows of WIDTH numbers of stores. */
byte seen[PARTS * WIDTH];                     /* of each thread */
byte released[(PROGRAMS * STEPS + 1) * WIDTH]; /* of the counter, at each count */
byte gathered[PROGRAMS * 2 * WIDTH];          /* of those at a program's block-wide barrier; the next one is another's */
byte stored[WIDTH];                           /* stores that there are */

byte counter;
byte standing[PROGRAMS], passed[PROGRAMS];    /* threads at the barrier; barriers passed */

/* What one view must see, another must see, too. */
#define JOIN(to, to_row, from, from_row) \
    for (i : 0 .. WIDTH - 1) { \
        if \
        :: from[(from_row) * WIDTH + i] > to[(to_row) * WIDTH + i] -> \
            to[(to_row) * WIDTH + i] = from[(from_row) * WIDTH + i] \
        :: else \
        fi \
    } \
    i = 0

inline block_barrier() {
    atomic {
        round = passed[program];
        JOIN(gathered, program * 2 + round % 2, seen, me);
        standing[program]++;
        if
        :: standing[program] == THREADS -> standing[program] = 0; passed[program]++
        :: else
        fi
    }
    atomic {
        passed[program] != round;
        JOIN(seen, me, gathered, program * 2 + round % 2)
    }
}

proctype thread(byte program; byte number) {
    byte me = program * THREADS + number, s, part, slot, i, round, arrivals;
    for (s : 0 .. STEPS - 1) {
        /* wait */
        arrivals = s * PROGRAMS;
#ifdef FEWER_ARRIVALS
        arrivals = (s > 0 -> arrivals - 1 : 0);
#endif
        if
        :: number == 0 ->
            atomic {
                counter >= arrivals;
#ifndef NO_ACQUIRE
                JOIN(seen, me, released, arrivals)
#endif
            }
        :: else
        fi;
#ifndef NO_BARRIER_AFTER
        block_barrier();
#endif
        /* h of the step before; all parts at one time, which may be any */
        if
        :: s > 0 ->
            atomic {
                for (part : 0 .. PARTS - 1) {
                    slot = ((s - 1) % SLOTS) * PARTS + part;
                    assert(seen[me * WIDTH + slot] >= (s - 1) / SLOTS + 1); /* nothing older may be read */
                    assert(stored[slot] <= (s - 1) / SLOTS + 1)             /* nor anything newer */
                }
                part = 0;
                slot = 0
            }
        :: else
        fi;
        /* h of this step */
        atomic {
            slot = (s % SLOTS) * PARTS + me;
            stored[slot]++;
            seen[me * WIDTH + slot] = stored[slot];
            slot = 0
        }
        /* arrive */
#ifndef NO_BARRIER_BEFORE
        block_barrier();
#endif
        if
        :: number == 0 ->
            atomic {
                JOIN(released, counter + 1, released, counter);
#ifndef NO_RELEASE
                JOIN(released, counter + 1, seen, me);
#endif
                counter++;
            }
        :: else
        fi
    }
}

init {
    byte p, n;
    atomic {
        for (p : 0 .. PROGRAMS - 1) {
            for (n : 0 .. THREADS - 1) {
                run thread(p, n)
            }
        }
    }
}
