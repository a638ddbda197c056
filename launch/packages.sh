#!/bin/bash
# packages.sh [--tests] - installs what building (and testing) m2 needs on Debian or Ubuntu; does nothing for packages
# that are there. Needs root or sudo only if something is missing. The one list: README, quickstart, tests and CI use it.
set -eu

build="build-essential cmake ninja-build pkg-config git ca-certificates libopenmpi-dev openmpi-bin libhdf5-dev libopenblas0-pthread
       libyaml-dev libjansson-dev libxxhash-dev libzstd-dev zlib1g-dev liblzma-dev libjpeg-dev libpng-dev"
tests="libcunit1-dev libfftw3-dev hdf5-tools python3 python3-h5py python3-numpy slurm-wlm munge iproute2 tmux procps zstd xz-utils"
demo="perl-doc gnuplot-nox"

case "${1:-}" in
'') want="$build" ;;
--tests) want="$build $tests" ;;
--demo) want="$build $demo" ;;
*) echo "usage: packages.sh [--tests|--demo]" >&2; exit 64 ;;
esac

missing=""
for p in $want; do
    dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null | grep -q '^installed$' || missing="$missing $p"
done
[ -z "$missing" ] && exit 0

root=""
[ "$(id -u)" = 0 ] || root="sudo"
[ -z "$root" ] || command -v sudo >/dev/null || {
    echo "packages.sh: these packages are missing and neither root nor sudo is at hand:$missing" >&2
    exit 71
}
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
apt="$root apt-get -o DPkg::Lock::Timeout=300 -qq"
{ $apt update && $apt install -y --no-install-recommends $missing; } >"$log" 2>&1 || {
    tail -20 "$log" >&2
    echo "packages.sh: apt-get failed; its full output is in $log" >&2
    exit 71
}
rm -f "$log"
