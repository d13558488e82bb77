#!/bin/sh
# Build the fuzz target with sanitizers and run it: native/fuzz/run.sh [SECONDS]. Fails on the first finding; its input is kept in
# build/fuzz/crash-input (or crash-* with Clang).
set -e
seconds=${1:-60}
here=$(cd "$(dirname "$0")/../.." && pwd)
build="$here/build/fuzz"
cmake -S "$here" -B "$build" -DHANLIN_PYTHON=OFF -DHANLIN_FUZZ=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo >/dev/null
cmake --build "$build" --parallel
cd "$build"
if grep -q 'CMAKE_CXX_COMPILER_ID "Clang"' CMakeFiles/*/CMakeCXXCompiler.cmake; then
  mkdir -p corpus
  exec native/fuzz/hanlin_fuzz corpus -max_total_time="$seconds" -max_len=600
fi
exec native/fuzz/hanlin_fuzz --seconds "$seconds"
