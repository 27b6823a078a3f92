#!/usr/bin/env bash
# Runs whole commands on two devices and compares what they leave: projection, preprocessing, training, a training run that is
# interrupted and resumed, a cache by a CT encoder, and the demo.
#
#   gpu_smoke.sh DEVICE REFERENCE FOLDER      such as cuda:0 host FOLDER; FOLDER is made anew
#
# Variables: X2CT (the program; default ./x2ct), PYTHON, COMPARE (the script that compares; default beside this one).
set -euo pipefail
x2ct=$(readlink -f "${X2CT:-./x2ct}")
here=$(cd "$(dirname "$0")" && pwd)
compare=${COMPARE:-$here/gpu_smoke.py}
[ -e "$compare" ] || compare=$here/smoke.py
device=$1 reference=$2
rm -rf "$3" && mkdir -p "$3" && cd "$3"

run() { echo "+ x2ct $*" && "$x2ct" "$@"; }

# The patients of both: 240 x 240 x 192 mm, in voxels of 6 mm.
run phantom --out patients --train 6 --valid 3 --shape 40x40x32 --spacing 6 --device "$reference"
volumes=(patients/dataset/train_fixed/*/*/*.nii.gz)

radiograph_run() { # EPOCHS
    cat <<TOML
out = "run"
epochs = $1
batch = 3
checkpoint_steps = 1
[model]
name = "resnet18"
width = 8
[data]
radiographs = "packed/ap.safetensors"
cache = "../patients/train.cache.safetensors"
image_size = 64
TOML
}
ct_run() {
    cat <<TOML
out = "ct"
epochs = 1
batch = 3
dtype = "f32"
[model]
name = "dcformer"
channels = [4, 4, 4, 8, 8]
blocks = [1, 1, 1, 1]
kernels = [5, 3, 3, 3]
embedding = 24
text_features = 96
[data]
volumes = "volumes.safetensors"
text = "text.safetensors"
TOML
}

# What one device makes, in a folder of its own.
everything() {
    local on=$1 pid code steps
    # Projection: every mode and projector.
    run drr "../${volumes[0]}" --out mean.safetensors --device "$on"
    for projector in siddon joseph trilinear; do
        run drr "../${volumes[0]}" --mode attenuation --projector $projector --geometry cone --view lateral --size 96x80 \
            --out "$projector.safetensors" --device "$on"
    done
    run drr "../${volumes[1]}" --mode film --size 128x128 --out film.safetensors --device "$on"
    run drr --dataset ../patients --split train --format bf16 --size 64x64 --out packed --device "$on"
    # Volumes as a network's input: each in a file, then mapped from one.
    run preprocess "../${volumes[0]}" --preset x2ct --out resampled.safetensors --device "$on"
    mapfile -t inputs < <(printf '../%s\n' "${volumes[@]:0:3}")
    run preprocess "${inputs[@]}" --preset ct-clip-v2 --dtype bf16 --out prepared --pack volumes.safetensors --device "$on"
    # Training a radiograph encoder, interrupted once it has written a checkpoint, then resumed to the end.
    radiograph_run 6 >run.toml
    # A quick device may come to the end first: then once more.
    for _ in 1 2 3 4 5 6; do
        rm -rf run
        echo "+ x2ct train run.toml, interrupted"
        "$x2ct" train run.toml --device "$on" &
        pid=$!
        while kill -0 $pid 2>/dev/null && [ ! -e run/checkpoint.safetensors ]; do sleep 0.01; done
        # Not the interrupt of a terminal: the shell lets processes behind it ignore that.
        kill -TERM $pid 2>/dev/null || true
        wait $pid || { code=$? && [ $code -eq 130 ] || [ $code -eq 143 ]; }
        steps=$(wc -l <run/log.jsonl)
        echo "stopped after $steps of 12 steps"
        [ "$steps" -eq 12 ] || break
    done
    [ "$steps" -lt 12 ] || { echo "the training could not be stopped before its end" && return 1; }
    run train run.toml --device "$on"
    [ "$(wc -l <run/log.jsonl)" -eq 12 ]
    # A CT encoder from volumes and reports, and the cache that it makes.
    ct_run >ct.toml
    run cache text --dataset ../patients --split train --features 96 --out text.safetensors --device "$on"
    run train ct.toml --device "$on"
    run cache build --checkpoint ct/checkpoint.safetensors --volumes volumes.safetensors --text text.safetensors \
        --out cache.safetensors --device "$on"
    # All of it at once.
    run demo --teacher dcformer --patients 16 --epochs 2 --teacher-epochs 1 --held-out 8 --out demo --device "$on"
}

for side in got want; do
    mkdir $side
    on=$device
    [ $side = got ] || on=$reference
    (cd $side && everything "$on")
done
"${PYTHON:-python3}" "$compare" got want
