#!/usr/bin/env bash
# On the bare machine: unpack what the kit carries, then hand over to stages.py, which has every option (--help).
#   bash .gpu/first.sh          PYTHON: interpreter with torch; WORK: scratch folder; OUT: what comes back; LIMIT: seconds
set -eu
kit=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
work=$(realpath -m "${WORK:-/tmp/bkdsnn-gpu}")
OUT=$(realpath -m "${OUT:-$work/out}") KIT_BEGAN=$(date +%s)
export OUT KIT_BEGAN
mkdir -p "$OUT" "$work/packages" "$work/project"
trap 'echo "setup: FAILED in line $LINENO of first.sh; nothing was run" | tee "$OUT/report.txt"' ERR

carried=$(sha256sum <"$kit/project.tar.gz")
if [ "$carried" != "$(cat "$work/unpacked" 2>/dev/null)" ]; then
    for wheel in "$kit"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$work/packages"; done
    tar xzf "$kit/project.tar.gz" --no-same-owner -C "$work/project"
    # results of another machine that were put back into the kit: their trainings go on
    for archive in "$kit"/results-*.tar.gz; do
        [ ! -e "$archive" ] || tar xzf "$archive" --no-same-owner --skip-old-files -C "$work/project"
    done
    echo "$carried" >"$work/unpacked"
fi
export PYTHONPATH=$work/packages:$work/project PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
cd "$work/project"
exec "$python" benchmarks/gpu/stages.py "$@" --kit "$kit" --work "$work"
