#!/bin/sh
# The comparison of docs/results/drealsr.md: the model in the package over its knob, bicubic, Lanczos, and OSEDiff's
# own outputs, on DRealSR pairs.
#
#   sh benchmarks/drealsr.sh DREALSR REPORTS
#
# DREALSR holds HR/, LR/ and osediff_official/, of the same names
# REPORTS receives the reports, of each and of all
set -eu
data=$1 reports=$2
metrics=psnr-y,ssim-y,ms-ssim,lr-consistency,lpips-squeeze,feature-squeezenet-onnx,niqe,brisque
mkdir -p "$reports"
score() { # report, arguments...
  report=$1
  shift
  onestep evaluate "$@" --lr "$data/LR" --hr "$data/HR" --protocol stablesr-512 --metrics $metrics -o "$reports/$report.json" -q
}
score bicubic -n bicubic
score lanczos -n lanczos
score osediff --sr "$data/osediff_official" --name "OSEDiff, official outputs"
score oftsr -n oftsr-compact-x4 --sweep realism=0,0.25,0.5,0.75,1
cd "$reports"
onestep evaluate --compare bicubic.json lanczos.json osediff.json oftsr.json --against paper --dataset drealsr --no-images \
  -o drealsr.json -o drealsr.md -o drealsr.html
