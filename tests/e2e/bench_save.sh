#!/bin/bash
# m2 bench save: figures for every save, alone and with ranks; nothing is left behind; a full disk is exit 74.
. "$M2_SOURCE/tests/e2e/common.bash"
small_run
for n in 1 2; do
    ranks $n "$M2" bench save config.yaml --saves 2 --json >out.json 2>log || { cat log; fail "$n ranks"; }
    [ "$(grep -c '"stall_seconds": [0-9.e-]*' out.json)" = 2 ] || { cat out.json; fail "$n ranks: not two saves"; }
    grep -q "\"ranks\": $n" out.json || fail "$n ranks: not said"
done
"$M2" bench save config.yaml --saves 1 >out 2>log || { cat log; fail "text"; }
grep -qE '^ +1( +[0-9.]+){5} +[0-9]+%' out || { cat out; fail "no row of figures"; }
"$M2" bench save config.yaml --folder nowhere >log 2>&1
[ $? = 74 ] || { cat log; fail "a folder that is not there"; }
[ "$(ls -d m2-bench-save-* 2>/dev/null)" = "" ] || fail "left behind: $(ls -d m2-bench-save-*)"
echo "bench save: figures, and nothing left behind"
