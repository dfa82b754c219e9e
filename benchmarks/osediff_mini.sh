#!/bin/sh
# OSEDiff on the mini prior with and without score distillation, one budget: trains both (an hour on two CPU
# cores; the same command continues), then scores them.
#
#   sh benchmarks/osediff_mini.sh PRIOR.safetensors PHOTOS DATA OUT
#
# PRIOR   release file of the mini prior (recipe mini-prior)
# PHOTOS  folder of training pictures
# DATA    holds drealsr/, realsr/ (HR, LR) and set14/ (HR, LR_bicubic_x4)
# OUT     receives the runs, one JSON report per set and row, and table.md
# STEPS, CROP   environment: training steps of both, and the side of crops (default: the recipe's)
set -eu
prior=$1 photos=$2 data=$3 runs=$4/runs scores=$4/scores
metrics=psnr-y,ssim-y,lpips-squeeze,niqe,brisque,feature-squeezenet-onnx,kid-squeeze
mkdir -p "$runs" "$scores"

for run in osediff-mini-plain osediff-mini; do
  onestep train "$run" --run "$runs/$run" --set "objective.prior=$prior" --set "data.folder=$photos" \
    ${STEPS:+--set train.steps=$STEPS} ${CROP:+--set data.crop=$CROP}
done

# LPIPS-squeeze was a training loss: it is shown, it decides nothing.
for set in drealsr realsr set14; do
  lr="$data/$set/LR"
  [ -d "$lr" ] || lr="$data/$set/LR_bicubic_x4"
  mkdir -p "$scores/$set"
  score() { # row, model, options...
    row=$1 model=$2
    shift 2
    [ -s "$scores/$set/$row.json" ] ||
      onestep evaluate -n "$model" "$@" --hr "$data/$set/HR" --lr "$lr" --metrics $metrics \
        -o "$scores/$set/$row.json" -q
  }
  score "00 bicubic" bicubic
  score "01 without VSD" "$runs/osediff-mini-plain"
  score "02 with VSD" "$runs/osediff-mini"
done
here=$(dirname "$0")
{
  python "$here/score_table.py" "$scores"
  python "$here/paired_table.py" "$scores" 02=01
} >"$4/table.md"
cat "$4/table.md"
