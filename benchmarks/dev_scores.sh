#!/bin/sh
# Score models on folders of HR and LR pictures: every row of docs/results is made by these commands.
#
#   sh benchmarks/dev_scores.sh DATA REPORTS TEACHER.safetensors [RIVALS]
#
# DATA    holds set5/, set14/ (HR, LR_bicubic_x4), drealsr/, realsr/ (HR, LR)
# REPORTS receives one JSON report per set and row
# TEACHER is the teacher's release file of the shipped student
# RIVALS  optional: RIVALS/NAME/SET/*.png, finished pictures of other tools
set -eu
data=$1 reports=$2 teacher=$3 rivals=${4:-}
metrics=psnr-y,ssim-y,lpips-squeeze,niqe
model=${MODEL:-oftsr-compact-x4}

for set in set5 set14 drealsr realsr; do
  lr="$data/$set/LR"
  [ -d "$lr" ] || lr="$data/$set/LR_bicubic_x4"
  out="$reports/$set"
  mkdir -p "$out"
  score() { # row, arguments...
    row=$1
    shift
    [ -s "$out/$row.json" ] || onestep evaluate "$@" --hr "$data/$set/HR" --metrics $metrics -o "$out/$row.json" -q
  }
  score "00 bicubic" -n bicubic --lr "$lr"
  score "01 Lanczos" -n lanczos --lr "$lr"
  if [ -n "$rivals" ]; then
    for rival in "$rivals"/*/; do
      score "02 $(basename "$rival")" --sr "$rival$set"
    done
  fi
  for realism in 0 0.25 0.5 0.75 1; do
    score "03 student, realism $realism" -n "$model" --lr "$lr" -r $realism
  done
  score "04 teacher, 8 evaluations" -n "$teacher" --lr "$lr" -O evaluations=8
  score "05 teacher, 32 evaluations" -n "$teacher" --lr "$lr" -O evaluations=32
done
python "$(dirname "$0")/score_table.py" "$reports"
