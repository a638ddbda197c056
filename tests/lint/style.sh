#!/bin/bash
# What a formatter cannot see: sizes of files and functions, banned calls, symbol prefixes, left-overs.
# Prints the size table of the tree and every breach; exit 1 if any.
cd "${M2_SOURCE:-$(dirname "$0")/../..}" || exit 1
bad=0
sources=$(find kernels parallel data runtime tools tests -type f 2>/dev/null \( -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' \))

# Functions start with "{" and end with "}" in column 1 (the house style), so lengths need no parser.
lengths=$(awk 'FNR == 1 { open = 0 } /^{/ { open = FNR } /^}/ && open { print FNR - open + 1, FILENAME ":" open; open = 0 }' $sources | sort -n)
over() { # over LIMIT REGEX: functions of matching files longer than LIMIT
    echo "$lengths" | awk -v limit="$1" -v re="$2" '$1 > limit && $2 ~ re { print "  " $1 " lines at " $2 }'
}
report() { [ -z "$2" ] || { printf '%s:\n%s\n' "$1" "$2"; bad=1; }; }

report "functions over 100 lines" "$(over 100 '[.](c|h):')"
report "device functions over 150 lines" "$(over 150 '[.]cuh?:')"
report "files over 700 lines" "$(wc -l $sources | awk '$2 != "total" && $1 > 700 { print "  " $1 " " $2 }')"
report "banned calls (sprintf, strcpy, strcat, gets, system, exit below main)" \
    "$(grep -nE '\b(sprintf|strcpy|strcat|gets|system)\(' $sources | sed 's/^/  /')$(grep -nE '\b(exit|abort)\(' $(echo "$sources" | grep -E '^(kernels|parallel|data|runtime)/') | grep -vE '(m2|m2i|api->|->)_?[a-z_]*(exit|abort)\(|MPI_Abort|^\S+:\s*/?\*' | grep -nE '[^_a-z>](exit|abort)\(' | sed 's/^/  /')"
report "left-overs" "$(grep -nE "\b(TO[D]O|FIX[M]E|X[X]X)\b|\"($PWD|/root|/home)/" $sources | sed 's/^/  /')"
report "public functions without the m2_ prefix" \
    "$(grep -nE '^M2_API' $(echo "$sources" | grep '[.]h$') | grep -vE '\bm2_[a-z0-9_]+' | sed 's/^/  /')"
report "lines over 130 columns" "$(awk 'length($0) > 130 { print "  " FILENAME ":" FNR }' $sources)"

echo "$lengths" | awk '{ a[NR] = $1 } END { printf "functions %d  median %d  p95 %d  max %d\n", NR, a[int(NR / 2) + 1], a[int(NR * .95) + 1], a[NR] }'
wc -l $sources | awk '$2 != "total" { print $1 }' | sort -n | awk '{ a[NR] = $1; s += $1 } END { printf "files %d  lines %d  median %d  p95 %d  max %d\n", NR, s, a[int(NR / 2) + 1], a[int(NR * .95) + 1], a[NR] }'
exit $bad
