#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Packs the binary, the tests of ops, the story model, the cases of tests/fixtures and the libraries that both need into
# one archive for a machine with a GPU. cuBLASLt is not packed: it is loaded by name there.
#   tools/pack_cuda_test.sh BUILD_FOLDER ARCHIVE [CASE_FOLDER...]
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1 archive=$2
shift 2
most_bytes=$((40 << 20))

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
pack=$folder/carousel-cuda-test
mkdir -p "$pack/lib" "$pack/cases" "$(dirname "$archive")"
for binary in carousel tests/carousel_op_tests; do
  strip -o "$pack/${binary##*/}" "$build/$binary"
  ldd "$build/$binary" | awk '$3 ~ /^\// && $3 !~ /\/(libc|libm|libdl|librt|libpthread|ld-linux[^\/]*)\.so/ {print $3}'
done | sort -u | xargs -I{} cp -L {} "$pack/lib/"
cp -r models/stories-xlstm "$pack/"
for case in tests/fixtures/models/* tests/fixtures/regressors/* "$@"; do
  if [ -f "$case/expected.safetensors" ]; then cp -r "$case" "$pack/cases/"; fi
done
chmod -R u+w "$pack"
cat > "$pack/run.sh" <<'RUN'
#!/usr/bin/env bash
# Runs the tests of ops on the GPU, then compares cases and the story model. CAROUSEL_TEST_DEVICE chooses another GPU.
set -uo pipefail
cd "$(dirname "$0")"
export LD_LIBRARY_PATH=$PWD/lib:/usr/local/cuda/lib64:${LD_LIBRARY_PATH:-}
export CAROUSEL_TEST_DEVICE=${CAROUSEL_TEST_DEVICE:-cuda}
device=$CAROUSEL_TEST_DEVICE failed=0
# Tapes and profiles that round have no kernels on GPUs; those tests run on instruction sets.
./carousel_op_tests --gtest_brief=1 --gtest_filter="${1:-$(cat filter)}" || failed=1
for case in cases/*; do
  ./carousel verify "$case" --device "$device" || failed=1
  ./carousel verify "$case" --device "$device" --weights bf16 --compute bf16 || failed=1
done
for op in slstm mlstm linear short_conv attention norm gated_unit block_linear moe cfc ltc; do
  ./carousel bench --op $op -r 1 --device "$device" >/dev/null || failed=1
done
cpu=$(./carousel generate stories-xlstm -p "Once upon a time" -n 60 --temp 0 2>/dev/null)
gpu=$(./carousel generate stories-xlstm -p "Once upon a time" -n 60 --temp 0 --device "$device" 2>/dev/null)
[ -n "$cpu" ] && [ "$cpu" = "$gpu" ] || { echo "generate: the GPU wrote another story"; failed=1; }
# The state of one device goes on on the other.
for pair in "$device cpu" "cpu $device"; do
  set -- $pair
  ./carousel generate stories-xlstm -p "Once upon a time" -n 30 --temp 0 --device "$1" --save-state state >first 2>/dev/null
  ./carousel generate stories-xlstm -n 30 --temp 0 --device "$2" --load-state state --no-display-prompt >second 2>/dev/null
  [ "$(tr -d '\n' <first)$(tr -d '\n' <second)" = "$(tr -d '\n' <<<"$cpu")" ] || {
    echo "a state saved on $1 goes on otherwise on $2"
    failed=1
  }
done
for model in cases/ncps-cfc-wired cases/ncps-ltc-autoncp; do
  row=$(printf '0.5,%.0s' $(seq "$(sed -n 's/.*"input_size": *\([0-9]*\).*/\1/p' "$model/config.json")"))
  printf '%s\n' "${row%,}" "${row%,}" >rows.csv
  ./carousel predict "$model" --input rows.csv --device "$device" >/dev/null || failed=1
done
printf 'Once upon a time\n' | ./carousel chat stories-xlstm --temp 0 -n 20 --device "$device" >/dev/null || failed=1
./carousel eval stories-xlstm --text first --device "$device" >/dev/null || failed=1
./carousel compare stories-xlstm -p "Once upon a time" --device "$device,cpu" >/dev/null || failed=1
[ $failed = 0 ] && echo "all passed on $device"
exit $failed
RUN
chmod +x "$pack/run.sh"
cat > "$pack/filter" <<'FILTER'
Swiglu.*:SoftCap.Agrees*:GateHeads.*:Elementwise.*:GatedUnit.*:AddNorm.*:HeldNorm.*:HeadNorm.*:Norm.*:GatherRows.Gives*:CopyColumns.*:Embedding.Rows*:CrossEntropy.Agrees*:Linear.AgreesWithF64:Linear.WeightsOfOne*:Linear.RowAlone*:Linear.Special*:Linear.ComputingIn*:Linear.BlockWeightsAgree*:Linear.BlockWeightsStand*:Linear.Streams*:Linear.FewRows*:FeedForward.HasTheBitsOfItsStepsOnAGpu:Linear.ManyRows*:BlockLinear.*:Mlstm.*:MlstmBf16.*:Cfc.AgreesWithF64:Cfc.Cuts*:Ltc.AgreesWithF64:Ltc.Cuts*:LtcNumerics.*:Slstm.*:ShortConv.*:SiluConv.*:Attention.*:AttentionSpans.*:MoeRoute.*:MoeExperts.*:Targets/Replays.*:Registry/BlockProperties.*
FILTER
# Both binaries have the same kernels: a dictionary that reaches from one to the other has them once.
tar -C "$folder" -c carousel-cuda-test | xz -6 --lzma2=dict=64MiB >"$archive"
size=$(stat -c %s "$archive")
if [ "$size" -gt $most_bytes ]; then
  echo "$archive: $size bytes, expected at most $most_bytes" >&2
  exit 1
fi
echo "$archive: $size bytes. On a machine with a GPU: tar xJf ${archive##*/} && carousel-cuda-test/run.sh"
