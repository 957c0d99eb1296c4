"""The native dispatcher, as LLVM text.

Plain functions over a pool (llvm_pool) and a flat program table. All workers walk
the table together, share the tasks of each step, and meet at a barrier. Nothing
here knows graphs or kernels, nor Python (but for one function, in a module of its
own), so that ahead-of-time libraries can link it too.
"""

from __future__ import annotations

from string import Template

from dlc.codegen.llvm.pool import (
    DECLARATIONS,
    FLOAT_MODE,
    FUTEX_NUMBER,
    LAYOUT,
    PAUSE,
    POOL_FUNCTIONS,
    WAITING,
    YIELD_AFTER,
    YIELD_NUMBER,
)
from dlc.errors import CompileError

# Words (8 bytes each) of a program's header and of its records. The table is built by runtime/program.py,
# which states the same layout; RUN_ABI changes whenever either of them does.
RUN_ABI = 2

EXPORTS = (
    "dlc_pool_create",
    "dlc_pool_size",
    "dlc_pool_reserve",
    "dlc_pool_stop",
    "dlc_pool_destroy",
    "dlc_run",
)
PYTHON_EXPORTS = ("dlc_poll_python",)

# Asked by worker 0 only, between steps and between its chunks. The poll is a closure: a structure whose first
# word is the function, called with the structure itself. The coarse clock costs a few nanoseconds.
_INTERRUPTION = """
define internal i1 @interrupted(ptr %pool, ptr %poll, ptr %last) {
entry:
  %stop.at = getelementptr i8, ptr %pool, i64 $STOP
  %stop = load atomic i32, ptr %stop.at monotonic, align 4
  %stopped = icmp ne i32 %stop, 0
  br i1 %stopped, label %yes, label %asked
asked:
  %deaf = icmp eq ptr %poll, null
  br i1 %deaf, label %no, label %clock
clock:
  %to = call i64 @now(i32 6)
  %from = load i64, ptr %last
  %elapsed = sub i64 %to, %from
  %due = icmp ugt i64 %elapsed, 50000000
  br i1 %due, label %call, label %no
call:
  store i64 %to, ptr %last
  %function = load ptr, ptr %poll
  %answer = call i32 %function(ptr %poll)
  %abort = icmp ne i32 %answer, 0
  br i1 %abort, label %yes, label %no
yes:
  ret i1 true
no:
  ret i1 false
}
"""

# Tasks of a step: worker w owns the w-th contiguous part, cut into chunks that are taken one by one by the owner,
# then by whoever has finished its own. The tag (the step's sequence number) in a counter makes resets unnecessary:
# a counter with another tag counts as zero, so that a worker that comes late loses its chunks but no one waits.
# Every other step is done from a part's end to its beginning: what the step before wrote last is in the cache.
_TASKS = """
define internal i1 @take_tasks(ptr %pool, i64 %worker, i64 %count, i64 %sequence, ptr %record, ptr %arguments,
                               ptr %scratch, i1 %interruptible, ptr %poll, ptr %last) {
entry:
  %function.at = getelementptr i64, ptr %record, i64 2
  %function = load ptr, ptr %function.at
  %tasks.at = getelementptr i64, ptr %record, i64 3
  %tasks = load i64, ptr %tasks.at
  %chunks.at = getelementptr i64, ptr %record, i64 4
  %chunks.most = load i64, ptr %chunks.at
  %abort.at = getelementptr i8, ptr %pool, i64 $ABORT_AT
  %sequence.next = add i64 %sequence, 1
  %tag = shl i64 %sequence, 24
  %odd = and i64 %sequence, 1
  %downward = icmp ne i64 %odd, 0
  %is.first = icmp eq i64 %worker, 0
  br label %owners
owners:
  %k = phi i64 [ 0, %entry ], [ %k.next, %next.owner ]
  %shifted = add i64 %worker, %k
  %wraps = icmp uge i64 %shifted, %count
  %back = sub i64 %shifted, %count
  %owner = select i1 %wraps, i64 %back, i64 %shifted
  %from.product = mul i64 %owner, %tasks
  %from = udiv i64 %from.product, %count
  %to.product = add i64 %from.product, %tasks
  %to = udiv i64 %to.product, %count
  %length = sub i64 %to, %from
  %few = icmp ult i64 %length, %chunks.most
  %chunks = select i1 %few, i64 %length, i64 %chunks.most
  %line = mul i64 %owner, $WORKER_BYTES
  %line.at = add i64 %line, $WORKERS
  %counter = getelementptr i8, ptr %pool, i64 %line.at
  br label %take
take:
  %seen = load atomic i64, ptr %counter monotonic, align 8
  %seen.tag = and i64 %seen, -16777216
  %same = icmp eq i64 %seen.tag, %tag
  %seen.taken = and i64 %seen, 16777215
  %taken = select i1 %same, i64 %seen.taken, i64 0
  %left = icmp ult i64 %taken, %chunks
  br i1 %left, label %claim, label %next.owner
claim:
  %taken.next = add i64 %taken, 1
  %new = or i64 %tag, %taken.next
  %swapped = cmpxchg ptr %counter, i64 %seen, i64 %new monotonic monotonic
  %won = extractvalue { i64, i1 } %swapped, 1
  br i1 %won, label %run, label %take
run:
  %last.first = sub i64 %chunks, %taken.next
  %place = select i1 %downward, i64 %last.first, i64 %taken
  %begin.product = mul i64 %place, %length
  %begin.offset = udiv i64 %begin.product, %chunks
  %end.product = add i64 %begin.product, %length
  %end.offset = udiv i64 %end.product, %chunks
  %begin = add i64 %from, %begin.offset
  %end = add i64 %from, %end.offset
  call void %function(ptr %arguments, i64 %begin, i64 %end, ptr %scratch)
  br i1 %is.first, label %ask, label %look
ask:
  br i1 %interruptible, label %poll.now, label %take
poll.now:
  %stop = call i1 @interrupted(ptr %pool, ptr %poll, ptr %last)
  br i1 %stop, label %abort, label %take
abort:
  ret i1 true
look:
  %leave = load atomic i64, ptr %abort.at monotonic, align 8
  %leaving = icmp eq i64 %leave, %sequence.next
  br i1 %leaving, label %done, label %take
next.owner:
  %k.next = add i64 %k, 1
  %all = icmp eq i64 %k.next, %count
  br i1 %all, label %done, label %owners
done:
  ret i1 false
}
"""

# In a loop of chains a worker runs its own part in every iteration, waits for no one, and leaves when worker 0 does.
# Parts begin at multiples rounded up, so that worker 0, which alone hears of interruptions, is not early.
_OWN_TASKS = """
define internal i1 @run_own_tasks(ptr %pool, i64 %worker, i64 %count, i64 %sequence, ptr %record, ptr %arguments,
                                  ptr %scratch) {
entry:
  %function.at = getelementptr i64, ptr %record, i64 2
  %function = load ptr, ptr %function.at
  %tasks.at = getelementptr i64, ptr %record, i64 3
  %tasks = load i64, ptr %tasks.at
  %begin.product = mul i64 %worker, %tasks
  %round = sub i64 %count, 1
  %begin.up = add i64 %begin.product, %round
  %begin = udiv i64 %begin.up, %count
  %end.up = add i64 %begin.up, %tasks
  %end = udiv i64 %end.up, %count
  %some = icmp ult i64 %begin, %end
  br i1 %some, label %run, label %look
run:
  call void %function(ptr %arguments, i64 %begin, i64 %end, ptr %scratch)
  br label %look
look:
  %abort.at = getelementptr i8, ptr %pool, i64 $ABORT_AT
  %leave = load atomic i64, ptr %abort.at monotonic, align 8
  %sequence.next = add i64 %sequence, 1
  %leaving = icmp eq i64 %leave, %sequence.next
  ret i1 %leaving
}
"""

# The walk over the table. Program header: 0 pointer to records, 1 parallel, 2 most arguments, 3 timing array or null.
# Records: 0 operation | flags << 8, 1 words; kernel (1): 2 function, 3 tasks, 4 chunks per worker, 5 arguments,
# 6 depth, 7 step, then per argument slot, offset and one stride per enclosing loop; loop (2): 2 count, 3 words to
# skip; end of loop (3); barrier (4); end of program (0). Flags: 1 barrier after, 2 commits state, 4 worker 0 only,
# 8 every worker runs its own part alone.
_WALK = """
define internal void @resolve(ptr %record, ptr %bases, ptr %iterations, ptr %arguments) {
entry:
  %count.at = getelementptr i64, ptr %record, i64 5
  %count = load i64, ptr %count.at
  %depth.at = getelementptr i64, ptr %record, i64 6
  %depth = load i64, ptr %depth.at
  %width = add i64 %depth, 2
  %first = getelementptr i64, ptr %record, i64 8
  %none = icmp eq i64 %count, 0
  br i1 %none, label %done, label %argument
argument:
  %k = phi i64 [ 0, %entry ], [ %k.next, %store ]
  %at = phi ptr [ %first, %entry ], [ %at.next, %store ]
  %slot = load i64, ptr %at
  %base.at = getelementptr i64, ptr %bases, i64 %slot
  %base = load i64, ptr %base.at
  %offset.at = getelementptr i64, ptr %at, i64 1
  %offset = load i64, ptr %offset.at
  %start = add i64 %base, %offset
  %flat = icmp eq i64 %depth, 0
  br i1 %flat, label %store, label %loops
loops:
  %level = phi i64 [ 0, %argument ], [ %level.next, %loops ]
  %sum = phi i64 [ %start, %argument ], [ %sum.next, %loops ]
  %stride.index = add i64 %level, 2
  %stride.at = getelementptr i64, ptr %at, i64 %stride.index
  %stride = load i64, ptr %stride.at
  %iteration.at = getelementptr i64, ptr %iterations, i64 %level
  %iteration = load i64, ptr %iteration.at
  %moved = mul i64 %stride, %iteration
  %sum.next = add i64 %sum, %moved
  %level.next = add i64 %level, 1
  %more = icmp ult i64 %level.next, %depth
  br i1 %more, label %loops, label %store
store:
  %address = phi i64 [ %start, %argument ], [ %sum.next, %loops ]
  %argument.at = getelementptr i64, ptr %arguments, i64 %k
  store i64 %address, ptr %argument.at
  %at.next = getelementptr i64, ptr %at, i64 %width
  %k.next = add i64 %k, 1
  %rest = icmp ult i64 %k.next, %count
  br i1 %rest, label %argument, label %done
done:
  ret void
}

define internal void @record_time(ptr %timing, ptr %record, i64 %from) {
  %to = call i64 @now(i32 1)
  %elapsed = sub i64 %to, %from
  %step.at = getelementptr i64, ptr %record, i64 7
  %step = load i64, ptr %step.at
  %word = mul i64 %step, 3
  %total.at = getelementptr i64, ptr %timing, i64 %word
  %total = load i64, ptr %total.at
  %total.next = add i64 %total, %elapsed
  store i64 %total.next, ptr %total.at
  %calls.at = getelementptr i64, ptr %total.at, i64 1
  %calls = load i64, ptr %calls.at
  %calls.next = add i64 %calls, 1
  store i64 %calls.next, ptr %calls.at
  %first.at = getelementptr i64, ptr %total.at, i64 2
  %known = icmp ne i64 %calls, 0
  %first.old = load i64, ptr %first.at
  %first = select i1 %known, i64 %first.old, i64 %from
  store i64 %first, ptr %first.at
  ret void
}

define internal i64 @walk(ptr %pool, i64 %worker, i64 %count, ptr %program, ptr %bases, ptr %poll) {
entry:
  %iterations = alloca [4 x i64]
  %counts = alloca [4 x i64]
  %starts = alloca [4 x ptr]
  %last = alloca i64
  %records.at = getelementptr i64, ptr %program, i64 0
  %records = load ptr, ptr %records.at
  %most.at = getelementptr i64, ptr %program, i64 2
  %most = load i64, ptr %most.at
  %timing.at = getelementptr i64, ptr %program, i64 3
  %timing.any = load ptr, ptr %timing.at
  %arguments = alloca i64, i64 %most
  %sequence.at = getelementptr i8, ptr %pool, i64 $SEQUENCE
  %sequence.first = load i64, ptr %sequence.at
  %abort.at = getelementptr i8, ptr %pool, i64 $ABORT_AT
  %worker.line = mul i64 %worker, $WORKER_BYTES
  %scratch.offset = add i64 %worker.line, $WORKER_SCRATCH
  %scratch.at = getelementptr i8, ptr %pool, i64 %scratch.offset
  %scratch = load ptr, ptr %scratch.at
  %is.first = icmp eq i64 %worker, 0
  %timing = select i1 %is.first, ptr %timing.any, ptr null
  %timed = icmp ne ptr %timing, null
  %start = call i64 @now(i32 6)
  store i64 %start, ptr %last
  br label %step
step:
  %record = phi ptr [ %records, %entry ], [ %skip.to, %skip ], [ %enter.to, %enter ], [ %repeat.to, %repeat ],
                    [ %leave.to, %leave ], [ %gather.to, %gathered ], [ %record.next, %next ]
  %sequence = phi i64 [ %sequence.first, %entry ], [ %sequence, %skip ], [ %sequence, %enter ],
                      [ %sequence, %repeat ], [ %sequence, %leave ], [ %sequence.in, %gathered ],
                      [ %sequence.now, %next ]
  %depth = phi i64 [ 0, %entry ], [ %depth, %skip ], [ %depth.in, %enter ], [ %depth, %repeat ],
                   [ %depth.out, %leave ], [ %depth, %gathered ], [ %depth, %next ]
  %interruptible = phi i1 [ %is.first, %entry ], [ %interruptible, %skip ], [ %interruptible, %enter ],
                          [ %interruptible, %repeat ], [ %interruptible, %leave ], [ %interruptible, %gathered ],
                          [ %interruptible.now, %next ]
  %word = load i64, ptr %record
  %operation = and i64 %word, 255
  %flags = lshr i64 %word, 8
  %words.at = getelementptr i64, ptr %record, i64 1
  %words = load i64, ptr %words.at
  switch i64 %operation, label %finish [ i64 1, label %kernel
                                         i64 2, label %loop
                                         i64 3, label %loop.end
                                         i64 4, label %gather ]
gather:
  call void @barrier(ptr %pool, i64 %sequence, i64 %count)
  %sequence.in = add i64 %sequence, 1
  %gather.leave.at = load atomic i64, ptr %abort.at monotonic, align 8
  %gather.aborted = icmp eq i64 %gather.leave.at, %sequence.in
  br i1 %gather.aborted, label %gone, label %gathered
gathered:
  %gather.to = getelementptr i64, ptr %record, i64 %words
  br label %step
loop:
  %serial.bit = and i64 %flags, 4
  %serial.loop = icmp ne i64 %serial.bit, 0
  %not.first = xor i1 %is.first, true
  %skips = and i1 %serial.loop, %not.first
  br i1 %skips, label %skip, label %enter
skip:
  %skip.words.at = getelementptr i64, ptr %record, i64 3
  %skip.words = load i64, ptr %skip.words.at
  %skip.to = getelementptr i64, ptr %record, i64 %skip.words
  br label %step
enter:
  %enter.to = getelementptr i64, ptr %record, i64 %words
  %times.at = getelementptr i64, ptr %record, i64 2
  %times = load i64, ptr %times.at
  %in.iteration = getelementptr i64, ptr %iterations, i64 %depth
  store i64 0, ptr %in.iteration
  %in.count = getelementptr i64, ptr %counts, i64 %depth
  store i64 %times, ptr %in.count
  %in.start = getelementptr ptr, ptr %starts, i64 %depth
  store ptr %enter.to, ptr %in.start
  %depth.in = add i64 %depth, 1
  br label %step
loop.end:
  %depth.out = sub i64 %depth, 1
  %out.iteration = getelementptr i64, ptr %iterations, i64 %depth.out
  %iteration = load i64, ptr %out.iteration
  %iteration.next = add i64 %iteration, 1
  store i64 %iteration.next, ptr %out.iteration
  %out.count = getelementptr i64, ptr %counts, i64 %depth.out
  %limit = load i64, ptr %out.count
  %more = icmp ult i64 %iteration.next, %limit
  br i1 %more, label %repeat, label %leave
repeat:
  %out.start = getelementptr ptr, ptr %starts, i64 %depth.out
  %repeat.to = load ptr, ptr %out.start
  br label %step
leave:
  %leave.to = getelementptr i64, ptr %record, i64 %words
  br label %step
kernel:
  %commit.bit = and i64 %flags, 2
  %harmless = icmp eq i64 %commit.bit, 0
  %interruptible.now = and i1 %interruptible, %harmless
  br i1 %interruptible.now, label %ask, label %assigned
ask:
  %stop = call i1 @interrupted(ptr %pool, ptr %poll, ptr %last)
  br i1 %stop, label %abort, label %assigned
assigned:
  %single.bit = and i64 %flags, 4
  %single = icmp ne i64 %single.bit, 0
  %idle.here = xor i1 %is.first, true
  %idle = and i1 %single, %idle.here
  br i1 %idle, label %after, label %clock
clock:
  br i1 %timed, label %clock.read, label %prepare
clock.read:
  %begun.at = call i64 @now(i32 1)
  br label %prepare
prepare:
  %begun = phi i64 [ 0, %clock ], [ %begun.at, %clock.read ]
  call void @resolve(ptr %record, ptr %bases, ptr %iterations, ptr %arguments)
  br i1 %single, label %alone, label %divided
divided:
  %own.bit = and i64 %flags, 8
  %own = icmp ne i64 %own.bit, 0
  br i1 %own, label %mine, label %shared
mine:
  %part.stop = call i1 @run_own_tasks(ptr %pool, i64 %worker, i64 %count, i64 %sequence, ptr %record, ptr %arguments,
                                      ptr %scratch)
  br i1 %part.stop, label %early, label %after
early:
  call void @barrier(ptr %pool, i64 %sequence, i64 %count)
  br label %gone
alone:
  %function.at = getelementptr i64, ptr %record, i64 2
  %function = load ptr, ptr %function.at
  %tasks.at = getelementptr i64, ptr %record, i64 3
  %tasks = load i64, ptr %tasks.at
  call void %function(ptr %arguments, i64 0, i64 %tasks, ptr %scratch)
  br label %after
shared:
  %stop.inside = call i1 @take_tasks(ptr %pool, i64 %worker, i64 %count, i64 %sequence, ptr %record,
                                     ptr %arguments, ptr %scratch, i1 %interruptible.now, ptr %poll, ptr %last)
  br i1 %stop.inside, label %abort, label %after
after:
  %began = phi i64 [ 0, %assigned ], [ %begun, %alone ], [ %begun, %mine ], [ %begun, %shared ]
  %barrier.bit = and i64 %flags, 1
  %meets = icmp ne i64 %barrier.bit, 0
  br i1 %meets, label %meet, label %time
meet:
  call void @barrier(ptr %pool, i64 %sequence, i64 %count)
  %sequence.met = add i64 %sequence, 1
  %leave.at = load atomic i64, ptr %abort.at monotonic, align 8
  %aborted = icmp eq i64 %leave.at, %sequence.met
  br i1 %aborted, label %gone, label %time
time:
  %sequence.now = phi i64 [ %sequence, %after ], [ %sequence.met, %meet ]
  br i1 %timed, label %clock.stop, label %next
clock.stop:
  call void @record_time(ptr %timing, ptr %record, i64 %began)
  br label %next
next:
  %record.next = getelementptr i64, ptr %record, i64 %words
  br label %step
finish:
  call void @barrier(ptr %pool, i64 %sequence, i64 %count)
  %sequence.done = add i64 %sequence, 1
  br i1 %is.first, label %publish, label %gone
publish:
  store i64 %sequence.done, ptr %sequence.at
  ret i64 0
abort:
  %sequence.abort = add i64 %sequence, 1
  store atomic i64 %sequence.abort, ptr %abort.at release, align 8
  call void @barrier(ptr %pool, i64 %sequence, i64 %count)
  store i64 %sequence.abort, ptr %sequence.at
  ret i64 1
gone:
  ret i64 0
}
"""

_RUN = """
define i64 @dlc_run(ptr %pool, ptr %program, ptr %bases, ptr %poll) {
entry:
  %mode = call i64 @float_mode_enter()
  %parallel.at = getelementptr i64, ptr %program, i64 1
  %parallel = load i64, ptr %parallel.at
  %size = load i64, ptr %pool
  %one = icmp eq i64 %size, 1
  %serial = icmp eq i64 %parallel, 0
  %alone = or i1 %one, %serial
  %count = select i1 %alone, i64 1, i64 %size
  br i1 %alone, label %walk, label %wake
wake:
  %program.at = getelementptr i8, ptr %pool, i64 $PROGRAM
  store ptr %program, ptr %program.at
  %bases.at = getelementptr i8, ptr %pool, i64 $BASES
  store ptr %bases, ptr %bases.at
  ; A run on worker 0 alone moves the sequence without the barrier's futex: bring them together again.
  %sequence.at = getelementptr i8, ptr %pool, i64 $SEQUENCE
  %sequence = load i64, ptr %sequence.at
  %sequence.low = trunc i64 %sequence to i32
  %barrier.at = getelementptr i8, ptr %pool, i64 $BARRIER_EPOCH
  store atomic i32 %sequence.low, ptr %barrier.at monotonic, align 4
  call void @start_run(ptr %pool)
  br label %walk
walk:
  %status = call i64 @walk(ptr %pool, i64 0, i64 %count, ptr %program, ptr %bases, ptr %poll)
  call void @float_mode_leave(i64 %mode)
  ret i64 %status
}
"""

# Asks CPython to run pending signal handlers. Done in native code because a Python callback can be interrupted
# before its first statement, outside any try, where the exception would be lost.
# Words of the closure: 0 this function, 1 PyGILState_Ensure, 2 PyGILState_Release, 3 PyErr_CheckSignals,
# 4 PyErr_Fetch, 5 PyErr_NormalizeException, 6..8 the exception's type, value and traceback.
_PYTHON_POLL = """
define i32 @dlc_poll_python(ptr %self) {
entry:
  %ensure.at = getelementptr ptr, ptr %self, i64 1
  %ensure = load ptr, ptr %ensure.at
  %release.at = getelementptr ptr, ptr %self, i64 2
  %release = load ptr, ptr %release.at
  %check.at = getelementptr ptr, ptr %self, i64 3
  %check = load ptr, ptr %check.at
  %state = call i32 %ensure()
  %failed = call i32 %check()
  %calm = icmp eq i32 %failed, 0
  br i1 %calm, label %done, label %take
take:
  %fetch.at = getelementptr ptr, ptr %self, i64 4
  %fetch = load ptr, ptr %fetch.at
  %normalize.at = getelementptr ptr, ptr %self, i64 5
  %normalize = load ptr, ptr %normalize.at
  %type.at = getelementptr ptr, ptr %self, i64 6
  %value.at = getelementptr ptr, ptr %self, i64 7
  %trace.at = getelementptr ptr, ptr %self, i64 8
  call void %fetch(ptr %type.at, ptr %value.at, ptr %trace.at)
  call void %normalize(ptr %type.at, ptr %value.at, ptr %trace.at)
  br label %done
done:
  call void %release(i32 %state)
  ret i32 %failed
}
"""


def dispatcher_text(architecture: str) -> str:
    """Return the LLVM text of pool and dispatcher for ``x86_64`` or ``aarch64`` Linux; CompileError for others."""
    if architecture not in FUTEX_NUMBER:
        raise CompileError(
            f"the native runtime knows x86_64 and aarch64 Linux, not {architecture!r}; run on one of these machines"
        )
    declare_pause, pause = PAUSE[architecture]
    constants = {name: str(value) for name, value in LAYOUT.items()}
    constants["WORKER_SCRATCH"] = str(LAYOUT["WORKERS"] + LAYOUT["W_SCRATCH"])
    constants["FUTEX"] = str(FUTEX_NUMBER[architecture])
    constants["YIELD"] = str(YIELD_NUMBER[architecture])
    constants["YIELD_AFTER"] = str(YIELD_AFTER)
    constants["PAUSE"] = pause
    body = "".join((DECLARATIONS, WAITING, _INTERRUPTION, _TASKS, _OWN_TASKS, _WALK, POOL_FUNCTIONS, _RUN))
    return f"{declare_pause}\n{FLOAT_MODE[architecture]}{Template(body).substitute(constants)}"


def python_poll_text() -> str:
    """Return the LLVM text of ``dlc_poll_python``, the poll that runs CPython's pending signal handlers."""
    return _PYTHON_POLL
