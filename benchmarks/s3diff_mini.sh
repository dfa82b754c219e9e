#!/bin/sh
# S3Diff on the mini prior, in three steps of its idea and one budget: plain adapters; gates; gates, online
# negatives and guidance. Trains them (hours on two CPU cores; the same command continues), then scores them on
# pictures that were degraded mildly and strongly.
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

for run in s3diff-mini-plain s3diff-mini-gated s3diff-mini; do
  onestep train "$run" --run "$runs/$run" --set "objective.prior=$prior" --set "data.folder=$photos" \
    ${STEPS:+--set train.steps=$STEPS} ${CROP:+--set data.crop=$CROP}
done

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
  score "01 plain adapters" "$runs/s3diff-mini-plain"
  score "02 gates" "$runs/s3diff-mini-gated"
  for guidance in 1 1.07 1.5; do
    score "03 gates, negatives, guidance $guidance" "$runs/s3diff-mini" -O guidance=$guidance
  done
  score "04 the same at 1, told that it is clean" "$runs/s3diff-mini" -O guidance=1 -O blur=0 -O noise=0
done
python "$(dirname "$0")/score_table.py" "$scores" --trained lpips-squeeze >"$4/table.md"
cat "$4/table.md"
