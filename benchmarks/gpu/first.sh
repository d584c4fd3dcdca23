#!/usr/bin/env bash
# On the bare machine: unpack what the kit carries, then hand over to stages.py, which has every option (--help).
#   bash .gpu/first.sh          PYTHON: interpreter with torch; WORK: scratch folder; OUT: what comes back; LIMIT: seconds
set -eu
kit=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
work=${WORK:-/tmp/bkdsnn-gpu}
export OUT=${OUT:-$work/out} KIT_BEGAN=$(date +%s)
mkdir -p "$OUT" "$work/packages" "$work/project"
trap 'echo "setup: FAILED in line $LINENO of first.sh; nothing was run" | tee "$OUT/report.txt"' ERR

if [ ! "$work/unpacked" -nt "$kit/project.tar.gz" ]; then
    for wheel in "$kit"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$work/packages"; done
    # results of an earlier call that were put back into the kit: their trainings go on
    for archive in "$kit"/project.tar.gz "$kit"/results-*.tar.gz; do
        [ ! -e "$archive" ] || tar xzf "$archive" --no-same-owner -C "$work/project"
    done
    touch "$work/unpacked"
fi
export PYTHONPATH=$work/packages:$work/project PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
cd "$work/project"
exec "$python" benchmarks/gpu/stages.py "$@" --kit "$kit" --work "$work"
