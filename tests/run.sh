#!/usr/bin/env bash
# Install what is missing and run all the tests, in two processes. Takes pytest's arguments.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m pip install --quiet --requirement requirements.txt pytest==9.2.0 pytest-xdist==3.8.0
export OMP_NUM_THREADS=1
exec python -m pytest -n 2 --dist loadfile --config-file tests/pytest.ini --rootdir . tests "$@"
