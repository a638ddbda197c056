#!/bin/bash
# A disk that fails while a checkpoint is written, at each kind of call, through a shim under the program: exit 74 with the
# reason, the older checkpoint whole, nothing half-written left, and the run goes on with the disk repaired. With
# checkpoint.on_failure=continue only that checkpoint is missing.
. "$M2_SOURCE/tests/e2e/common.bash"
command -v cc >/dev/null || { echo "no C compiler for the shim"; exit 77; }
cat >shim.c <<'END'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>
static int fails(const char *call, const char *path)
{
    const char *want = getenv("FAIL_CALL"), *where = getenv("FAIL_PATH"), *code = getenv("FAIL_ERRNO");
    if (!want || strcmp(want, call) || !strstr(path, where)) return 0;
    errno = atoi(code);
    return 1;
}
static int fails_fd(const char *call, int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    return fails(call, path);
}
static int late(off_t at) /* so that a file begins well */
{
    const char *from = getenv("FAIL_FROM");
    return !from || at >= atol(from);
}
#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, name))
ssize_t pwrite(int fd, const void *b, size_t n, off_t at)
{
    if (late(at) && fails_fd("pwrite", fd)) return -1;
    return NEXT(ssize_t(*)(int, const void *, size_t, off_t), "pwrite")(fd, b, n, at);
}
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t at)
{
    if (late(at) && fails_fd("pwrite", fd)) return -1;
    return NEXT(ssize_t(*)(int, const void *, size_t, off64_t), "pwrite64")(fd, b, n, at);
}
ssize_t write(int fd, const void *b, size_t n)
{
    if (fails_fd("pwrite", fd)) return -1;
    return NEXT(ssize_t(*)(int, const void *, size_t), "write")(fd, b, n);
}
int fsync(int fd)
{
    if (fails_fd("fsync", fd)) return -1;
    return NEXT(int (*)(int), "fsync")(fd);
}
int rename(const char *a, const char *b)
{
    if (fails("rename", a)) return -1;
    return NEXT(int (*)(const char *, const char *), "rename")(a, b);
}
int mkdir(const char *a, mode_t m)
{
    if (fails("mkdir", a)) return -1;
    return NEXT(int (*)(const char *, mode_t), "mkdir")(a, m);
}
END
cc -shared -fPIC -o shim.so shim.c -ldl 2>log || { cat log; fail "the shim does not compile"; }
small_run
run="$M2 train config.yaml run.dir=run checkpoint.every=10"
$run train.steps=10 >log 2>&1 || { cat log; fail "the first steps"; }
before=$(content run)
broken() { # broken CALL ERRNO PATH: runs on a disk that fails there
    FAIL_CALL=$1 FAIL_ERRNO=$2 FAIL_PATH=$3 LD_PRELOAD=$work/shim.so "${@:4}"
}
check() { # check CALL ERRNO PATH REASON
    broken "$1" "$2" "$3" $run train.steps=20 >log 2>&1
    code=$?
    [ $code = 74 ] || { cat log; fail "$1 on $3: exit code $code, expected 74"; }
    grep -q "^m2: error: saving checkpoint of step 20: .*$4" log || { cat log; fail "$1 on $3: does not say why"; }
    [ "$(ls run/checkpoints)" = step-00000010 ] || fail "$1 on $3: left behind $(ls run/checkpoints)"
    [ "$(content run)" = "$before" ] || fail "$1 on $3: the older checkpoint changed"
    echo "ok: $(grep -o 'saving checkpoint.*' log)"
}
check pwrite 5 rank-00000.h5 'Input/output error'
check pwrite 28 rank-00000.h5 'No space left on device'
export FAIL_FROM=100000
check pwrite 28 rank-00000.h5 'No space left on device'
unset FAIL_FROM
check pwrite 28 manifest.h5 'No space left on device'
check fsync 5 rank-00000.h5 'Input/output error'
check fsync 5 manifest.xxh 'Input/output error'
check rename 5 step-00000020 'Input/output error'
check mkdir 30 step-00000020 'Read-only file system'

export FAIL_CALL=fsync FAIL_ERRNO=5 FAIL_PATH=rank-00001.h5 # one of two ranks
ranks 2 env LD_PRELOAD="$work/shim.so" $run train.steps=20 >log 2>&1
code=$?
unset FAIL_CALL
[ $code = 74 ] || { cat log; fail "rank 1 of 2: exit code $code, expected 74"; }
grep -q '^m2: error: saving checkpoint of step 20: .*rank 1.*Input/output error' log || { cat log; fail "does not name the rank"; }
[ "$(content run)" = "$before" ] || fail "rank 1 of 2: the older checkpoint changed"
ranks 2 $run train.steps=12 checkpoint.every=1 >log 2>&1 || { cat log; fail "two ranks with a repaired disk"; }
rm -r run/checkpoints/step-0000001[12]
echo "ok: rank 1 of 2 is named"

for call in pwrite fsync mkdir; do # the failure comes in the background, the run goes on
    broken $call 5 step-00000020 $run train.steps=30 checkpoint.on_failure=continue >log 2>&1 ||
        { cat log; fail "$call: checkpoint.on_failure=continue did not go on"; }
    grep -q 'saving checkpoint of step 20: .*Input/output error; training goes on' log || { cat log; fail "$call: silent"; }
    [ "$(ls run/checkpoints | tr '\n' ' ')" = "step-00000010 step-00000030 " ] || fail "$call: $(ls run/checkpoints)"
    "$M2" inspect checkpoint run --verify >log 2>&1 || { cat log; fail "$call: the checkpoint after it"; }
    rm -r run/checkpoints/step-00000030
done
export FAIL_CALL=pwrite FAIL_ERRNO=28 FAIL_PATH=rank-00001.h5 FAIL_FROM=100000 # a full disk under one of two ranks
ranks 2 env LD_PRELOAD="$work/shim.so" $run train.steps=24 checkpoint.on_failure=continue >log 2>&1
code=$?
unset FAIL_CALL FAIL_FROM
[ $code = 74 ] || { cat log; fail "rank 1 of 2, going on: exit code $code for the last checkpoint, expected 74"; }
grep -q 'saving checkpoint of step 20: .*rank 1.*No space left on device; training goes on' log || { cat log; fail "rank 1 of 2 did not go on"; }
grep -q '^m2: error: saving checkpoint of step 24: .*rank 1.*No space left on device' log || { cat log; fail "rank 1 of 2 stopped early"; }
[ "$(content run)" = "$before" ] || fail "rank 1 of 2, going on: the older checkpoint changed"
echo "ok: rank 1 of 2 without room: trained on to step 24"
broken fsync 5 step-00000020 $run train.steps=20 checkpoint.on_failure=continue >log 2>&1
[ $? = 74 ] || { cat log; fail "the last checkpoint of a run is lost and the exit code is not 74"; }
$run train.steps=20 >log 2>&1 || { cat log; fail "going on with the disk repaired"; }
"$M2" inspect checkpoint run --verify | grep -q 'step-00000020 is whole' || fail "no checkpoint of step 20"
echo "a repaired disk: the run goes on"
