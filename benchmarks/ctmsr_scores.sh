#!/bin/sh
# Score the compact CTMSR models: the rows of docs/results/ctmsr-compact-x4.md.
#
#   sh benchmarks/ctmsr_scores.sh DATA REPORTS REGRESSION.safetensors CT.safetensors FULL.safetensors
#
# DATA    holds drealsr/, realsr/ (HR, LR) and set14/ (HR, LR_bicubic_x4)
# REPORTS receives one JSON report per set and row
set -eu
data=$1 reports=$2 regression=$3 ct=$4 full=$5
metrics=psnr-y,ssim-y,lpips-squeeze,niqe,brisque,feature-squeezenet-onnx

for set in drealsr realsr set14; do
  lr="$data/$set/LR"
  [ -d "$lr" ] || lr="$data/$set/LR_bicubic_x4"
  out="$reports/$set"
  mkdir -p "$out"
  score() { # row, arguments...
    row=$1
    shift
    [ -s "$out/$row.json" ] || onestep evaluate "$@" --hr "$data/$set/HR" --lr "$lr" --metrics $metrics -o "$out/$row.json" -q
  }
  score "00 bicubic" -n bicubic
  score "03 (a) regression, one interval" -n "$regression"
  score "04 (b) CT, 4 to 3 intervals" -n "$ct"
  score "05 (c) CT, then DTM" -n "$full"
  for realism in 0 0.5 1; do
    score "07 oftsr-compact-x4, realism $realism" -n oftsr-compact-x4 -r $realism
  done
done
python "$(dirname "$0")/score_table.py" "$reports"
