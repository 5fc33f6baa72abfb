#!/usr/bin/env bash
# Trains the shipped models of real faces anew, one after the other, into reproduced/; given again after a stop it goes on.
#
#   bash training/configs/reproduce.sh
#
# Needs an environment with fer_keras, and FER2013 with FER+'s votes, prepared by
#   python -m training.prepare --source fer2013 --csv fer2013.csv --votes fer2013new.csv --out data/prepared/ferplus
#   python -m training.prepare --source fer2013 --csv fer2013.csv --out data/prepared/fer2013
# data/prepared/drawn-seed1 it makes itself.
set -euo pipefail
cd "$(dirname "$0")/../.."
export TF_ENABLE_ONEDNN_OPTS="${TF_ENABLE_ONEDNN_OPTS-1}"
into=reproduced

for data in data/prepared/ferplus data/prepared/fer2013; do # the second is needed after hours only
    [ -f "$data/dataset.json" ] || { echo "$data is not there; the top of this script says how it is made" >&2; exit 2; }
done

train() {
    local run="runs/$into/$1"
    if [ -f "$into/$1/metadata.json" ]; then
        echo "$into/$1 is there"
    elif [ -f "$run/config.json" ]; then
        python -m training.train --resume "$run"
    else
        python -m training.train --config "training/configs/$1.yaml" --out "$run" --export "$1" --saved-models "$into"
    fi
}

ensemble() {
    local name="$1" data="$2"
    shift 2
    if [ -f "$into/$name/metadata.json" ]; then
        echo "$into/$name is there"
    else
        rm -rf "runs/$into/$name" # an ensemble of what is trained already takes minutes: nothing of it is kept
        python -m training.ensemble --data "data/prepared/$data" --mirror --combine mean --out "runs/$into/$name" \
            --export "$name" --saved-models "$into" --join "$@"
    fi
}

train ferplus-cnn-start
train ferplus-cnn-longer
ensemble ferplus-teacher ferplus "$into/ferplus-cnn-longer" "$into/ferplus-cnn-start"
train ferplus-cnn-robust
ensemble ferplus-ensemble ferplus "$into/ferplus-cnn-start" "$into/ferplus-cnn-longer" "$into/ferplus-cnn-robust"
train ferplus-cnn
train fer2013-cnn-start
train ferplus-cnn-wide
train fer2013-cnn-wide
ensemble fer2013-teacher fer2013 "$into/fer2013-cnn-start" "$into/fer2013-cnn-wide"
train ferplus-cnn-wide2
train fer2013-cnn
[ -d data/prepared/drawn-seed1 ] ||
    python -m training.prepare --source synthetic --count 4000 --seed 1 --fractions 80,10,10 --out data/prepared/drawn-seed1
train drawn-densenet121
train ferplus-densenet121-start
train ferplus-densenet121-tuned
train ferplus-densenet121-robust
train ferplus-densenet121-whole
train ferplus-densenet121
