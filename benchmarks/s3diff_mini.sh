#!/bin/sh
# S3Diff on the mini prior, step by step and with one budget: plain adapters; gates; gates that begin as plain
# adapters; gates, online negatives and guidance. Trains them (hours on two CPU cores; the same command
# continues), then scores them on pictures that were degraded mildly and strongly.
#
#   sh benchmarks/s3diff_mini.sh PRIOR.safetensors PHOTOS HR OUT
#
# PRIOR   release file of the mini prior (recipe mini-prior)
# PHOTOS  folder of training pictures
# HR      folder of pictures to score on
# OUT     receives the runs, one JSON report per row, and table.md
# STEPS, CROP   environment: training steps of all, and the side of crops (default: the recipe's)
set -eu
prior=$1 photos=$2 hr=$3 runs=$4/runs scores=$4/scores
metrics=psnr-y,ssim-y,lpips-squeeze,niqe,brisque,feature-squeezenet-onnx,kid-squeeze
mkdir -p "$runs" "$scores"

run() { # name of the run, recipe, settings...
  name=$1 recipe=$2
  shift 2
  onestep train "$recipe" --run "$runs/$name" --set "objective.prior=$prior" --set "data.folder=$photos" \
    ${STEPS:+--set train.steps=$STEPS} ${CROP:+--set data.crop=$CROP} "$@"
}
run plain s3diff-mini-plain
run gated s3diff-mini-gated
run begun-plain s3diff-mini-gated --set objective.start=plain
run full s3diff-mini

# LPIPS-squeeze was a training loss: it is shown, it decides nothing.
for preset in camera realesrgan; do # mild, strong
  mkdir -p "$scores/$preset"
  score() { # row, model, options...
    row=$1 model=$2
    shift 2
    [ -s "$scores/$preset/$row.json" ] ||
      onestep evaluate --hr "$hr" --preset "$preset" --metrics $metrics -n "$model" "$@" -o "$scores/$preset/$row.json" -q
  }
  score "00 bicubic" bicubic
  score "01 plain adapters" "$runs/plain"
  score "02 gates" "$runs/gated"
  score "03 gates, told that it is clean" "$runs/gated" -O blur=0 -O noise=0
  score "04 gates that began as plain adapters" "$runs/begun-plain"
  score "05 the same, told that it is clean" "$runs/begun-plain" -O blur=0 -O noise=0
  for guidance in 1 1.07; do
    score "06 gates and negatives, guidance $guidance" "$runs/full" -O guidance=$guidance
  done
done
here=$(dirname "$0") negatives="06 gates and negatives, guidance 1"
{
  python "$here/score_table.py" "$scores" --trained lpips-squeeze
  python "$here/paired_table.py" "$scores" 02=01 04=01 04=02 03=02 05=04 "$negatives=01" "$negatives=02" \
    "${negatives}.07=$negatives" --step camera realesrgan
} >"$4/table.md"
cat "$4/table.md"
