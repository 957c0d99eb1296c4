"""The native thread pool as LLVM text: memory layout, waiting, barrier, life cycle.

A pool is one opaque block: a header and one padded record per worker, the caller
being worker 0. Threads wait by a bounded spin, then on a futex. It must not know
what workers run: that is ``walk`` of llvm_dispatch.
"""

from __future__ import annotations

FUTEX_NUMBER = {"x86_64": 202, "aarch64": 98}
YIELD_NUMBER = {"x86_64": 24, "aarch64": 124}
YIELD_AFTER = 10_000
"""Nanoseconds of a spin after which the processor is offered to others: whom a thread waits for may need it."""

# Byte offsets of the pool. Every word that several threads write has 128 bytes of its own: adjacent-line
# prefetchers pull cache lines in pairs.
LAYOUT = {
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

PAUSE = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.isb(i32)", "call void @llvm.aarch64.isb(i32 15)"),
}

# Worker threads and the caller must round and treat subnormals alike, whatever other libraries have set.
FLOAT_MODE = {
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

DECLARATIONS = """
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

# Waiting: a bounded spin, in which others soon get their turn, then a futex. A waiter counts itself among the sleepers
# before it asks the kernel, and the waker changes the word before it looks at that count, both sequentially
# consistent: no lost wake.
WAITING = """
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
  br i1 %over, label %sleep, label %patience
patience:
  %long = icmp ugt i64 %elapsed, $YIELD_AFTER
  br i1 %long, label %yield, label %burst
yield:
  %yielded = call i64 (i64, ...) @syscall(i64 $YIELD)
  br label %burst
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

POOL_FUNCTIONS = """
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
"""
