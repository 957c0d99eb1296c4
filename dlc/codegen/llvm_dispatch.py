"""The native dispatcher and its thread pool, as LLVM text.

One module of plain functions over two opaque structures: a pool of worker
threads (the caller is worker 0) and a flat program table. All workers walk the
table together, share the tasks of each step, and meet at a barrier. Nothing here
knows Python, graphs or kernels, so that ahead-of-time libraries can link it too;
the one function that calls into CPython lives in a module of its own.
"""

from __future__ import annotations

from string import Template

from dlc.errors import CompileError

# Words (8 bytes each) of a program's header and of its records. The table is built by runtime/program.py,
# which states the same layout; RUN_ABI changes whenever either of them does.
RUN_ABI = 1

EXPORTS = (
    "dlc_pool_create",
    "dlc_pool_size",
    "dlc_pool_reserve",
    "dlc_pool_stop",
    "dlc_pool_destroy",
    "dlc_run",
)
PYTHON_EXPORTS = ("dlc_poll_python",)

_FUTEX_NUMBER = {"x86_64": 202, "aarch64": 98}

# Byte offsets of the pool. Every word that several threads write has 128 bytes of its own: adjacent-line
# prefetchers pull cache lines in pairs.
_POOL = {
    "SIZE": 0,
    "SPIN": 8,
    "SCRATCH_BYTES": 16,
    "RUN_EPOCH": 128,  # i32, a futex: goes up by one at the start of each run
    "RUN_SLEEPERS": 132,  # i32
    "SHUTDOWN": 136,  # i32
    "PROGRAM": 144,
    "BASES": 152,
    "SEQUENCE": 160,  # i64: number of barriers passed since creation, plus one
    "ARRIVED": 256,  # i32
    "BARRIER_EPOCH": 384,  # i32, a futex: low half of the number of barriers passed
    "BARRIER_SLEEPERS": 388,  # i32
    "ABORT_AT": 512,  # i64: the barrier after which every worker leaves
    "STOP": 520,  # i32: set to make a run in progress leave early
    "WORKERS": 640,
    "WORKER_BYTES": 256,
    "W_COUNTER": 0,  # i64: sequence << 24 | number of chunks taken
    "W_POOL": 128,
    "W_INDEX": 136,
    "W_THREAD": 144,
    "W_SCRATCH": 152,
}

_PAUSE = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.isb(i32)", "call void @llvm.aarch64.isb(i32 15)"),
}

# Worker threads and the caller must round and treat subnormals alike, whatever other libraries have set.
_FLOAT_MODE = {
    "x86_64": """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)

define internal i64 @float_mode_enter() {
  %cell = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %cell)
  %old = load i32, ptr %cell
  store i32 8064, ptr %cell
  call void @llvm.x86.sse.ldmxcsr(ptr %cell)
  %wide = zext i32 %old to i64
  ret i64 %wide
}

define internal void @float_mode_leave(i64 %old) {
  %cell = alloca i32
  %narrow = trunc i64 %old to i32
  store i32 %narrow, ptr %cell
  call void @llvm.x86.sse.ldmxcsr(ptr %cell)
  ret void
}
""",
    "aarch64": """
declare i64 @llvm.aarch64.get.fpcr()
declare void @llvm.aarch64.set.fpcr(i64)

define internal i64 @float_mode_enter() {
  %old = call i64 @llvm.aarch64.get.fpcr()
  call void @llvm.aarch64.set.fpcr(i64 0)
  ret i64 %old
}

define internal void @float_mode_leave(i64 %old) {
  call void @llvm.aarch64.set.fpcr(i64 %old)
  ret void
}
""",
}

_DECLARATIONS = """
declare i64 @syscall(i64, ...)
declare i32 @clock_gettime(i32, ptr)
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_join(i64, ptr)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @sigfillset(ptr)
declare i32 @sigdelset(ptr, i32)
declare i32 @posix_memalign(ptr, i64, i64)
declare void @free(ptr)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
"""

# Waiting: a bounded spin, then a futex. A waiter counts itself among the sleepers before it asks the kernel,
# and the waker changes the word before it looks at that count, both sequentially consistent: no lost wake.
_WAITING = """
define internal i64 @now(i32 %clock) {
  %time = alloca [2 x i64]
  %rc = call i32 @clock_gettime(i32 %clock, ptr %time)
  %seconds = load i64, ptr %time
  %at = getelementptr i64, ptr %time, i64 1
  %nanoseconds = load i64, ptr %at
  %scaled = mul i64 %seconds, 1000000000
  %total = add i64 %scaled, %nanoseconds
  ret i64 %total
}

define internal void @wait_change(ptr %word, ptr %sleepers, i32 %old, i64 %spin) {
entry:
  %first = load atomic i32, ptr %word acquire, align 4
  %moved = icmp ne i32 %first, %old
  br i1 %moved, label %done, label %asked
asked:
  %no.spin = icmp eq i64 %spin, 0
  br i1 %no.spin, label %sleep, label %start
start:
  %from = call i64 @now(i32 1)
  br label %burst
burst:
  br label %pause
pause:
  %k = phi i64 [ 0, %burst ], [ %k.next, %again ]
  $PAUSE
  %seen = load atomic i32, ptr %word acquire, align 4
  %changed = icmp ne i32 %seen, %old
  br i1 %changed, label %done, label %again
again:
  %k.next = add i64 %k, 1
  %full = icmp eq i64 %k.next, 64
  br i1 %full, label %clock, label %pause
clock:
  %to = call i64 @now(i32 1)
  %elapsed = sub i64 %to, %from
  %over = icmp ugt i64 %elapsed, %spin
  br i1 %over, label %sleep, label %burst
sleep:
  %counted = atomicrmw add ptr %sleepers, i32 1 seq_cst
  br label %test
test:
  %last = load atomic i32, ptr %word seq_cst, align 4
  %woken = icmp ne i32 %last, %old
  br i1 %woken, label %awake, label %block
block:
  %old.wide = zext i32 %old to i64
  %rc = call i64 (i64, ...) @syscall(i64 $FUTEX, ptr %word, i64 128, i64 %old.wide, ptr null, ptr null, i64 0)
  br label %test
awake:
  %left = atomicrmw sub ptr %sleepers, i32 1 seq_cst
  br label %done
done:
  ret void
}

define internal void @wake_all(ptr %word, ptr %sleepers) {
  %asleep = load atomic i32, ptr %sleepers seq_cst, align 4
  %any = icmp ne i32 %asleep, 0
  br i1 %any, label %wake, label %done
wake:
  %rc = call i64 (i64, ...) @syscall(i64 $FUTEX, ptr %word, i64 129, i64 2147483647, ptr null, ptr null, i64 0)
  br label %done
done:
  ret void
}

define internal void @barrier(ptr %pool, i64 %sequence, i64 %count) {
entry:
  %alone = icmp eq i64 %count, 1
  br i1 %alone, label %done, label %arrive
arrive:
  %arrived = getelementptr i8, ptr %pool, i64 $ARRIVED
  %epoch = getelementptr i8, ptr %pool, i64 $BARRIER_EPOCH
  %sleepers = getelementptr i8, ptr %pool, i64 $BARRIER_SLEEPERS
  %old = trunc i64 %sequence to i32
  %before = atomicrmw add ptr %arrived, i32 1 acq_rel
  %count.narrow = trunc i64 %count to i32
  %others = sub i32 %count.narrow, 1
  %last = icmp eq i32 %before, %others
  br i1 %last, label %release, label %wait
release:
  store atomic i32 0, ptr %arrived monotonic, align 4
  %new = add i32 %old, 1
  store atomic i32 %new, ptr %epoch seq_cst, align 4
  call void @wake_all(ptr %epoch, ptr %sleepers)
  br label %done
wait:
  %spin.at = getelementptr i8, ptr %pool, i64 $SPIN
  %spin = load i64, ptr %spin.at
  call void @wait_change(ptr %epoch, ptr %sleepers, i32 %old, i64 %spin)
  br label %done
done:
  ret void
}
"""

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
  %begin.product = mul i64 %taken, %length
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

# The walk over the table. Program header: 0 pointer to records, 1 parallel, 2 most arguments, 3 timing array or null.
# Records: 0 operation | flags << 8, 1 words; kernel (1): 2 function, 3 tasks, 4 chunks per worker, 5 arguments, 6 depth,
# 7 step, then per argument slot, offset and one stride per enclosing loop; loop (2): 2 count, 3 words to skip;
# end of loop (3); end of program (0). Flags: 1 barrier after, 2 commits state, 4 worker 0 only.
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
                    [ %leave.to, %leave ], [ %record.next, %next ]
  %sequence = phi i64 [ %sequence.first, %entry ], [ %sequence, %skip ], [ %sequence, %enter ],
                      [ %sequence, %repeat ], [ %sequence, %leave ], [ %sequence.now, %next ]
  %depth = phi i64 [ 0, %entry ], [ %depth, %skip ], [ %depth.in, %enter ], [ %depth, %repeat ],
                   [ %depth.out, %leave ], [ %depth, %next ]
  %interruptible = phi i1 [ %is.first, %entry ], [ %interruptible, %skip ], [ %interruptible, %enter ],
                          [ %interruptible, %repeat ], [ %interruptible, %leave ], [ %interruptible.now, %next ]
  %word = load i64, ptr %record
  %operation = and i64 %word, 255
  %flags = lshr i64 %word, 8
  %words.at = getelementptr i64, ptr %record, i64 1
  %words = load i64, ptr %words.at
  switch i64 %operation, label %finish [ i64 1, label %kernel
                                         i64 2, label %loop
                                         i64 3, label %loop.end ]
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
  br i1 %single, label %alone, label %shared
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
  %began = phi i64 [ 0, %assigned ], [ %begun, %alone ], [ %begun, %shared ]
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

_POOL_FUNCTIONS = """
define internal ptr @worker_main(ptr %self) {
entry:
  %mode = call i64 @float_mode_enter()
  %pool.at = getelementptr i8, ptr %self, i64 $W_POOL
  %pool = load ptr, ptr %pool.at
  %index.at = getelementptr i8, ptr %self, i64 $W_INDEX
  %index = load i64, ptr %index.at
  %epoch.at = getelementptr i8, ptr %pool, i64 $RUN_EPOCH
  %sleepers = getelementptr i8, ptr %pool, i64 $RUN_SLEEPERS
  %spin.at = getelementptr i8, ptr %pool, i64 $SPIN
  %shutdown.at = getelementptr i8, ptr %pool, i64 $SHUTDOWN
  %program.at = getelementptr i8, ptr %pool, i64 $PROGRAM
  %bases.at = getelementptr i8, ptr %pool, i64 $BASES
  br label %wait
wait:
  %epoch = phi i32 [ 0, %entry ], [ %epoch.next, %run ]
  %spin = load i64, ptr %spin.at
  call void @wait_change(ptr %epoch.at, ptr %sleepers, i32 %epoch, i64 %spin)
  %epoch.next = add i32 %epoch, 1
  %down = load atomic i32, ptr %shutdown.at monotonic, align 4
  %ends = icmp ne i32 %down, 0
  br i1 %ends, label %done, label %run
run:
  %count = load i64, ptr %pool
  %program = load ptr, ptr %program.at
  %bases = load ptr, ptr %bases.at
  %rc = call i64 @walk(ptr %pool, i64 %index, i64 %count, ptr %program, ptr %bases, ptr null)
  br label %wait
done:
  ret ptr null
}

define internal void @start_run(ptr %pool) {
  %epoch.at = getelementptr i8, ptr %pool, i64 $RUN_EPOCH
  %sleepers = getelementptr i8, ptr %pool, i64 $RUN_SLEEPERS
  %epoch = load atomic i32, ptr %epoch.at monotonic, align 4
  %epoch.next = add i32 %epoch, 1
  store atomic i32 %epoch.next, ptr %epoch.at seq_cst, align 4
  call void @wake_all(ptr %epoch.at, ptr %sleepers)
  ret void
}

define ptr @dlc_pool_create(i64 %size, i64 %spin) {
entry:
  %cell = alloca ptr
  %all = alloca [16 x i64]
  %old = alloca [16 x i64]
  %lines = mul i64 %size, $WORKER_BYTES
  %bytes = add i64 %lines, $WORKERS
  %rc = call i32 @posix_memalign(ptr %cell, i64 128, i64 %bytes)
  %ok = icmp eq i32 %rc, 0
  br i1 %ok, label %fill, label %fail
fail:
  ret ptr null
fill:
  %pool = load ptr, ptr %cell
  call void @llvm.memset.p0.i64(ptr %pool, i8 0, i64 %bytes, i1 false)
  %size.at = getelementptr i8, ptr %pool, i64 $SIZE
  store i64 %size, ptr %size.at
  %spin.at = getelementptr i8, ptr %pool, i64 $SPIN
  store i64 %spin, ptr %spin.at
  %sequence.at = getelementptr i8, ptr %pool, i64 $SEQUENCE
  store i64 1, ptr %sequence.at
  %barrier.at = getelementptr i8, ptr %pool, i64 $BARRIER_EPOCH
  store i32 1, ptr %barrier.at
  ; Signals must reach the application's threads; only faults stay with the thread that made them.
  %full = call i32 @sigfillset(ptr %all)
  %ill = call i32 @sigdelset(ptr %all, i32 4)
  %bus = call i32 @sigdelset(ptr %all, i32 7)
  %fpe = call i32 @sigdelset(ptr %all, i32 8)
  %segv = call i32 @sigdelset(ptr %all, i32 11)
  %masked = call i32 @pthread_sigmask(i32 2, ptr %all, ptr %old)
  br label %more
more:
  %index = phi i64 [ 1, %fill ], [ %index.next, %started ]
  %left = icmp ult i64 %index, %size
  br i1 %left, label %spawn, label %done
spawn:
  %line = mul i64 %index, $WORKER_BYTES
  %line.at = add i64 %line, $WORKERS
  %worker = getelementptr i8, ptr %pool, i64 %line.at
  %pool.at = getelementptr i8, ptr %worker, i64 $W_POOL
  store ptr %pool, ptr %pool.at
  %index.at = getelementptr i8, ptr %worker, i64 $W_INDEX
  store i64 %index, ptr %index.at
  %thread.at = getelementptr i8, ptr %worker, i64 $W_THREAD
  %made = call i32 @pthread_create(ptr %thread.at, ptr null, ptr @worker_main, ptr %worker)
  %index.next = add i64 %index, 1
  %born = icmp eq i32 %made, 0
  br i1 %born, label %started, label %short
started:
  br label %more
short:
  ; The system allows no more threads: run with those there are. Workers read the size only within a run.
  store i64 %index, ptr %size.at
  br label %done
done:
  %unmasked = call i32 @pthread_sigmask(i32 2, ptr %old, ptr null)
  ret ptr %pool
}

define i64 @dlc_pool_size(ptr %pool) {
  %size = load i64, ptr %pool
  ret i64 %size
}

define i64 @dlc_pool_reserve(ptr %pool, i64 %bytes) {
entry:
  %bytes.at = getelementptr i8, ptr %pool, i64 $SCRATCH_BYTES
  %have = load i64, ptr %bytes.at
  %enough = icmp uge i64 %have, %bytes
  br i1 %enough, label %kept, label %grow
kept:
  ret i64 0
grow:
  store i64 0, ptr %bytes.at
  %size = load i64, ptr %pool
  br label %each
each:
  %index = phi i64 [ 0, %grow ], [ %index.next, %placed ]
  %line = mul i64 %index, $WORKER_BYTES
  %line.at = add i64 %line, $WORKER_SCRATCH
  %scratch.at = getelementptr i8, ptr %pool, i64 %line.at
  %old = load ptr, ptr %scratch.at
  call void @free(ptr %old)
  store ptr null, ptr %scratch.at
  %rc = call i32 @posix_memalign(ptr %scratch.at, i64 4096, i64 %bytes)
  %ok = icmp eq i32 %rc, 0
  br i1 %ok, label %placed, label %failed
placed:
  %index.next = add i64 %index, 1
  %more = icmp ult i64 %index.next, %size
  br i1 %more, label %each, label %done
failed:
  store ptr null, ptr %scratch.at
  ret i64 1
done:
  store i64 %bytes, ptr %bytes.at
  ret i64 0
}

define void @dlc_pool_stop(ptr %pool) {
  %stop.at = getelementptr i8, ptr %pool, i64 $STOP
  store atomic i32 1, ptr %stop.at monotonic, align 4
  ret void
}

define void @dlc_pool_destroy(ptr %pool) {
entry:
  %shutdown.at = getelementptr i8, ptr %pool, i64 $SHUTDOWN
  store atomic i32 1, ptr %shutdown.at release, align 4
  call void @start_run(ptr %pool)
  %size = load i64, ptr %pool
  br label %each
each:
  %index = phi i64 [ 0, %entry ], [ %index.next, %freed ]
  %line = mul i64 %index, $WORKER_BYTES
  %line.at = add i64 %line, $WORKERS
  %worker = getelementptr i8, ptr %pool, i64 %line.at
  %caller = icmp eq i64 %index, 0
  br i1 %caller, label %freed, label %join
join:
  %thread.at = getelementptr i8, ptr %worker, i64 $W_THREAD
  %thread = load i64, ptr %thread.at
  %joined = call i32 @pthread_join(i64 %thread, ptr null)
  br label %freed
freed:
  %scratch.at = getelementptr i8, ptr %worker, i64 $W_SCRATCH
  %scratch = load ptr, ptr %scratch.at
  call void @free(ptr %scratch)
  %index.next = add i64 %index, 1
  %more = icmp ult i64 %index.next, %size
  br i1 %more, label %each, label %done
done:
  call void @free(ptr %pool)
  ret void
}

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
    if architecture not in _FUTEX_NUMBER:
        raise CompileError(
            f"the native runtime knows x86_64 and aarch64 Linux, not {architecture!r}; run on one of these machines"
        )
    declare_pause, pause = _PAUSE[architecture]
    constants = {name: str(value) for name, value in _POOL.items()}
    constants["WORKER_SCRATCH"] = str(_POOL["WORKERS"] + _POOL["W_SCRATCH"])
    constants["FUTEX"] = str(_FUTEX_NUMBER[architecture])
    constants["PAUSE"] = pause
    body = "".join((_DECLARATIONS, _WAITING, _INTERRUPTION, _TASKS, _WALK, _POOL_FUNCTIONS))
    return f"{declare_pause}\n{_FLOAT_MODE[architecture]}{Template(body).substitute(constants)}"


def python_poll_text() -> str:
    """Return the LLVM text of ``dlc_poll_python``, the poll that runs CPython's pending signal handlers."""
    return _PYTHON_POLL
