import pytest

from fer_keras.errors import ConfigError
from fer_keras.labels import EMOTIONS, canonical_names, joined_name, ordered, parse_label_map, resolve_label_map, words_to_map


def test_emotions_stand_in_the_order_of_the_ferplus_columns():
    assert EMOTIONS == ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")


def test_names_of_emotions_become_the_canonical_ones():
    assert canonical_names(["Angry", "happy", "neutral"]) == {"Angry": "anger", "happy": "happiness", "neutral": "neutral"}


def test_a_class_set_of_its_own_keeps_its_names():
    names = ["neutral", "focused", "tired", "angry"]
    assert canonical_names(names) == {name: name for name in names}


def test_names_of_one_emotion_that_were_found_are_one_class_and_those_that_were_chosen_are_not():
    names = ["joy", "Bored", "Happiness", "bored", "angry", "happy"]
    found = {"joy": "joy", "Happiness": "joy", "happy": "joy", "Bored": "Bored", "bored": "Bored", "angry": "angry"}
    assert canonical_names(names, found=True) == found
    assert canonical_names(names) == {name: "Bored" if name == "bored" else name for name in names}


def test_emotions_come_first_in_order_and_others_follow_alphabetically():
    assert ordered(["tired", "sadness", "focused", "neutral"]) == ("neutral", "sadness", "focused", "tired")


def test_a_map_merges_renames_and_drops():
    mapping = resolve_label_map(parse_label_map("disgust=anger, contempt=, happy=joyful"), EMOTIONS)
    assert mapping["disgust"] == "anger"
    assert mapping["contempt"] is None
    assert mapping["happiness"] == "joyful"
    assert mapping["fear"] == "fear"


def test_a_map_may_use_any_name_of_an_emotion_for_a_class_in_words_of_its_own():
    known = ["bored", "happy", "Angry"]
    mapping = resolve_label_map(parse_label_map("Happiness=glad,anger=cross"), known)
    assert mapping == {"bored": "bored", "happy": "glad", "Angry": "cross"}
    with pytest.raises(ConfigError, match="'Joy' of the label map are both the label 'happy'"):
        resolve_label_map({"happiness": "a", "Joy": "b"}, known)
    with pytest.raises(ConfigError, match="unknown label 'happiness'"):  # which of the two?
        resolve_label_map({"happiness": "a"}, ["joy", "happy", "bored"])


@pytest.mark.parametrize("text", ["disgust", "=anger", "fear=anger,fear=sadness"])
def test_a_map_that_is_no_map_is_refused(text):
    with pytest.raises(ConfigError):
        parse_label_map(text)


def test_a_map_of_an_unknown_label_is_refused_by_name():
    with pytest.raises(ConfigError, match="'boredom'.*neutral"):
        resolve_label_map({"boredom": "anger"}, EMOTIONS)


def test_a_map_that_leaves_nothing_is_refused():
    with pytest.raises(ConfigError, match="drops every label"):
        resolve_label_map({"a": None, "b": None}, ["a", "b"])


def test_names_that_are_joined_are_told_apart_whatever_is_in_them():
    words = ["a", "b", "a x b", "x", "a x", "x b", '"a x b"', " a", "a ", '"', "axb"]
    pairs = [(one, other) for one in words for other in words]
    triples = [(*pair, word) for pair in pairs for word in words]
    assert len({joined_name(parts, "x") for parts in (*pairs, *triples)}) == len(pairs) + len(triples)
    assert joined_name(("fear", "Male"), "x") == "fear x Male"
    assert joined_name(("a x b",), "x") == "a x b"
    assert joined_name(("axb", "R&D"), "x") == "axb x R&D"


def test_classes_that_a_model_lacks_become_what_it_calls_them_or_are_dropped():
    words = words_to_map(["bored", "happy", "Angry"], ["neutral", "happiness", "sadness"])
    assert words == "--map bored=,happy=happiness,Angry= (NAME= drops a class, NAME=OTHER merges it)"
    mapping = resolve_label_map(parse_label_map(words.split()[1]), ["bored", "happy", "Angry"])
    assert mapping == {"bored": None, "happy": "happiness", "Angry": None}
