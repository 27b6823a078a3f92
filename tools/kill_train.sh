#!/bin/bash
# Kills a training run under a pipe (x2ct train ... | cat) by SIGKILL at N random moments. After each: the checkpoint, where there is
# one yet, must be readable; the run, started again, must end in the bytes of the run that nobody disturbed.
# Usage: X=/path/to/x2ct [N=100] [SEED=1] tools/kill_train.sh
set -u
X=$(realpath "${X:?set X to the x2ct binary}"); N=${N:-100}; RANDOM=${SEED:-1}
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W" || exit 1
fail() { echo "FAILED at kill $killed, after $moment ms: $1"; tail -n 3 ./*.log; exit 1; }

"$X" phantom --out . --train 8 --valid 1 --shape 32x32x32 --spacing 10 >/dev/null 2>&1 &&
    "$X" drr --dataset . --split train --out r --size 32x32 >/dev/null 2>&1 || { echo "no data"; exit 1; }
cat >run.toml <<END
out = "run"
epochs = 6
batch = 2
checkpoint_steps = 1
[model]
name = "resnet18"
width = 4
[data]
radiographs = "r/ap.safetensors"
cache = "train.cache.safetensors"
image_size = 32
[optimizer]
lr = 1e-3
END
evaluate="eval --checkpoint run/checkpoint.safetensors --radiographs r/ap.safetensors --cache train.cache.safetensors --dataset . --split train"

begin=$(date +%s%3N)
"$X" train run.toml 2>whole.log | cat >/dev/null
length=$(($(date +%s%3N) - begin)); killed=0; moment=0
"$X" $evaluate >/dev/null 2>eval.log || fail "the undisturbed run has no checkpoint"
mv run whole

early=0 finished=0
while [ "$killed" -lt "$N" ]; do
    rm -rf run pid code; moment=$((RANDOM * length / 32768))
    { "$X" train run.toml 2>killed.log & echo $! >pid; wait $!; echo $? >code; } 2>/dev/null | cat >/dev/null &
    until [ -s pid ]; do :; done
    sleep "$((moment / 1000)).$(printf %03d $((moment % 1000)))"
    kill -KILL "$(cat pid)" 2>/dev/null; wait
    if [ "$(cat code)" != 137 ]; then finished=$((finished + 1)); continue; fi
    killed=$((killed + 1))
    if [ -e run/checkpoint.safetensors ]; then
        "$X" $evaluate >/dev/null 2>eval.log || fail "the checkpoint cannot be read"
    else
        early=$((early + 1))
    fi
    "$X" train run.toml >/dev/null 2>resumed.log || fail "the run does not go on"
    for file in checkpoint.safetensors log.jsonl; do cmp -s whole/$file run/$file || fail "$file differs"; done
    [ "$(ls -A run | wc -l)" = 2 ] || fail "something stays behind: $(ls -A run | tr '\n' ' ')"
done
echo "$N kills within $length ms of $(wc -l <whole/log.jsonl) steps ($finished more came too late): $((N - early)) left a valid checkpoint," \
    "$early came before the first; $N runs went on to the same bytes and left nothing else"
