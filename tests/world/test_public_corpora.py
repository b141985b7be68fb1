"""Public corpora: files are read, voices kept apart, clips described, faults named."""

from collections import Counter

import pytest

from desta_lab.clips import Corpus, CorpusError
from desta_lab.world.public_corpora import (
    CREMA_D,
    ESC_50_EVENTS,
    LIBRISPEECH,
    PUBLIC_CORPORA,
    RAVDESS,
    RAVDESS_SPLITS,
)
from desta_lab.world.tables import deal_speaker
from tests.world.files import write_lines, write_noise

# ---- small folders of the same shape ----


def crema_d(folder):
    write_lines(
        folder / "VideoDemographics.csv",
        '"ActorID","Age","Sex","Race","Ethnicity"',
        '1001,51,"Male","Caucasian","Not Hispanic"',
        '1002,21,"Female","Caucasian","Not Hispanic"',
    )
    for name in ("1001_DFA_ANG_XX", "1001_IEO_HAP_HI", "1002_TSI_NEU_X", "1002_ITS_SAD_LO"):
        write_noise(folder / "AudioWAV" / f"{name}.wav")


def ravdess(folder):
    for actor in (1, 2, 17, 18, 23, 24):
        for rest in ("03-01-06-01-02-01", "03-02-03-02-01-02"):
            write_noise(folder / "speech" / f"Actor_{actor:02d}" / f"{rest}-{actor:02d}.wav")


def esc_50(folder):
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in range(1, 6):
        for target, category, source, take in (
            (0, "dog", 100 + fold, "A"),
            (14, "chirping_birds", 200 + fold, "A"),
        ):
            name = f"{fold}-{source}-{take}-{target}.wav"
            write_noise(folder / "audio" / name)
            rows.append(f"{name},{fold},{target},{category},True,{source},{take}")
    write_lines(folder / "meta" / "esc50.csv", *rows)


CV_HEAD = (
    "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tvariant\t"
    "locale\tsegment"
)


def common_voice(folder):
    told = {
        "train": "twenties\tmale_masculine\tUnited States English",
        "dev": "fourties\tfemale\t",
        "test": "\tother\t",
    }
    for table, words in told.items():
        write_noise(folder / "clips" / f"{table}.mp3", format="MP3")
        row = f'{table}-voice\t{table}.mp3\tShe said "no, and left.\t2\t0\t{words}\t\ten\t'
        write_lines(folder / f"{table}.tsv", CV_HEAD, row)


def librispeech(folder):
    write_lines(
        folder / "SPEAKERS.TXT",
        ";ID  |SEX| SUBSET           |MINUTES| NAME",
        "60   | M | train-clean-100  | 20.18 | |CBW|Simon",
        "84   | F | dev-clean        |  8.02 | Christie Nowak",
        "61   | M | test-clean       |  8.08 | Paul-Gabriel Wiener",
    )
    for part, reader in (("train-clean-100", 60), ("dev-clean", 84), ("test-clean", 61)):
        chapter = folder / part / str(reader) / "121"
        write_noise(chapter / f"{reader}-121-0000.flac", rate=16_000)
        write_noise(chapter / f"{reader}-121-0001.flac", rate=16_000)
        write_lines(
            chapter / f"{reader}-121.trans.txt",
            f"{reader}-121-0000 GO DO YOU HEAR",
            f"{reader}-121-0001 BUT IN LESS",
        )


FOLDERS = {
    "crema-d": crema_d,
    "ravdess": ravdess,
    "esc-50": esc_50,
    "common-voice": common_voice,
    "librispeech": librispeech,
}
each_corpus = pytest.mark.parametrize("name", PUBLIC_CORPORA)


@pytest.fixture
def corpus(tmp_path, name):
    FOLDERS[name](tmp_path)
    return PUBLIC_CORPORA[name].build(tmp_path)


def first_sound(folder):
    sounds = (path for path in folder.rglob("*") if path.suffix in (".wav", ".mp3", ".flac"))
    return min(sounds)


# ---- what holds for every public corpus ----


def test_every_public_corpus_has_a_folder_to_be_tried_on():
    assert FOLDERS.keys() == PUBLIC_CORPORA.keys()


@each_corpus
def test_a_download_becomes_a_corpus_whose_audio_is_sound(corpus, name):
    again = Corpus.read(corpus.folder, check_audio=True)
    assert again.clips == corpus.clips
    assert (corpus.name, corpus.recipe["source"]) == (name, name)


@each_corpus
def test_the_licence_and_the_way_to_the_files_are_stated(corpus, name):
    public = PUBLIC_CORPORA[name]
    assert corpus.licence == public.licence
    assert any(word in public.licence for word in ("CC", "ODbL"))
    assert "https://" in public.how_to_get


@each_corpus
def test_no_speaker_is_in_two_splits(corpus, name):
    speakers = Counter(who for split in corpus.splits.values() for who in split)
    assert set(speakers.values()) == {1}
    assert sum(len(corpus.split(split)) for split in corpus.splits) == len(corpus.clips)
    if name != "crema-d":  # its two actors here are dealt by hash, as the 91 are
        assert corpus.splits.keys() == {"train", "validation", "test"}


@each_corpus
def test_attributes_have_only_values_of_the_vocabulary(corpus, name):
    for clip in corpus.clips:
        for attribute, value in clip.attributes.items():
            vocabulary = PUBLIC_CORPORA[name].attributes[attribute]
            assert value in vocabulary or not vocabulary


@each_corpus
def test_a_description_names_every_attribute_that_is_known(corpus, name):
    public = PUBLIC_CORPORA[name]
    for clip in corpus.clips:
        sentence = public.describe(clip.attributes)
        assert sentence[0].isupper() and sentence.endswith(".") and "{" not in sentence
        for attribute, value in clip.attributes.items():
            assert public.words.get(attribute, {}).get(value, value) in sentence


@each_corpus
def test_nothing_known_is_still_a_sentence(name):
    public = PUBLIC_CORPORA[name]
    sentence = public.describe({})
    assert sentence.startswith("A ") and sentence.endswith(".")
    known = {value for values in public.attributes.values() for value in values}
    assert not known & set(sentence.split())


@each_corpus
def test_an_unreadable_file_is_named(tmp_path, name):
    FOLDERS[name](tmp_path)
    broken = first_sound(tmp_path)
    broken.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CorpusError, match=f"{broken.name}: not readable as audio") as caught:
        PUBLIC_CORPORA[name].build(tmp_path)
    assert name in ("crema-d", "ravdess") or ", line " in str(caught.value)
    assert not (tmp_path / "corpus.json").exists()


@each_corpus
def test_a_clip_beyond_the_limit_is_left_out_and_counted(tmp_path, name):
    FOLDERS[name](tmp_path)
    long = first_sound(tmp_path)
    write_noise(long, seconds=1.5)
    corpus = PUBLIC_CORPORA[name].build(tmp_path, max_seconds=1.0)
    assert corpus.recipe["left_out"] == {"longer than 1 s": 1}
    assert long.stem not in {clip.id.rpartition("/")[2] for clip in corpus.clips}


@each_corpus
def test_an_empty_folder_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(CorpusError, match=r"no such file; |no clips, "):
        PUBLIC_CORPORA[name].build(tmp_path)
    assert not list(tmp_path.iterdir())


# ---- how their files are read: end of the id → speaker, transcript, attributes, description ----

READ = {
    "crema-d": (
        "1001_IEO_HAP_HI",
        "1001",
        "It's eleven o'clock.",
        {"gender": "male", "age": "fifties", "emotion": "happy", "intensity": "high"},
        "A male speaker in their fifties sounds happy, with high intensity.",
    ),
    "ravdess": (
        "03-02-03-02-01-02-17",
        "actor-17",
        "Kids are talking by the door.",
        {"gender": "male", "emotion": "happy", "intensity": "strong", "manner": "sung"},
        "A male speaker sings and sounds happy, with strong intensity.",
    ),
    "esc-50": (
        "4-204-A-14",
        "fold 4, recording 204",
        "",
        {"event": "chirping birds", "kind": "nature"},
        "A recording of one sound: chirping birds. It comes from nature.",
    ),
    "common-voice": (
        "train",
        "train-voice",
        'She said "no, and left.',
        {"gender": "male", "age": "twenties", "accent": "United States English"},
        "A male speaker in their twenties speaks with this accent: United States English.",
    ),
    "librispeech": (
        "84-121-0000",
        "84",
        "GO DO YOU HEAR",
        {"gender": "female"},
        "A female speaker reads aloud from a book.",
    ),
}


@each_corpus
def test_a_clip_is_read_and_described(corpus, name):
    end, *expected = READ[name]
    clip = next(clip for clip in corpus.clips if clip.id.endswith(end))
    sentence = PUBLIC_CORPORA[name].describe(clip.attributes)
    assert [clip.speaker, clip.transcript, clip.attributes, sentence] == expected


# ---- faults: file, its line or lines (none: a sound of that name), words of the error ----

ESC_50_HEAD = "filename,fold,target,category,esc10,src_file,take"
FAULTS = [
    ("crema-d", "AudioWAV/1003_DFA_ANG_XX.wav", "speaker '1003' is not in .*Demographics.csv; "),
    ("crema-d", "AudioWAV/1001_DFA_JOY_XX.wav", "JOY_XX.wav: unknown emotion 'JOY'; it is one of "),
    ("crema-d", "AudioWAV/1001_ABC_ANG_XX.wav", "unknown sentence 'ABC'; "),
    ("crema-d", "AudioWAV/1001_DFA_ANG_VH.wav", "unknown intensity 'VH'; "),
    ("crema-d", "AudioWAV/hello.wav", "hello.wav: not named like 1001_DFA_ANG_XX.wav; "),
    ("ravdess", "Actor_12/03-01-09-01-02-01-12.wav", "unknown emotion '09'; "),
    ("ravdess", "Actor_12/01-01-06-01-02-01-12.wav", "unknown modality '01'; "),
    ("ravdess", "Actor_12/03-01-06-01-02-01-25.wav", "unknown actor '25'; "),
    ("ravdess", "Actor_12/03-01-06-01-02-12.wav", "not named like "),
    ("ravdess", "Actor_12/03-01-01-02-02-01-12.wav", "neutral with strong intensity, which the "),
    ("ravdess", "Actor_13/03-01-06-01-02-01-12.wav", "not in the folder Actor_12; move it there"),
]
BAD_LINES = [
    ("crema-d", "VideoDemographics.csv", "1003,x,Male", "the age 'x' is no"),
    ("crema-d", "VideoDemographics.csv", "1003,20,?", r"unknown Sex '\?'; "),
    ("crema-d", "VideoDemographics.csv", "1003,²,Male", "the age '²' is no whole number from 10"),
    ("crema-d", "VideoDemographics.csv", "1003,150,Male", "the age '150' is no whole number from"),
    ("esc-50", "meta/esc50.csv", "1-101-A-0.wav,6,0,dog,True,101,A", "unknown fold '6'; "),
    (
        "esc-50",
        "meta/esc50.csv",
        "1-101-A-0.wav,2,0,dog,True,101,A",
        "fold 2 and category number 0, but 1-101-A-0.wav names 1 and 0; ",
    ),
    ("esc-50", "meta/esc50.csv", "1-101-A-0.wav,1,1,rooster,True,101,A", "but 1-101-A-0.wav names"),
    ("esc-50", "meta/esc50.csv", "1.wav,1,0,unicorn,True,101,A", "unknown category 'unicorn'; "),
    ("esc-50", "meta/esc50.csv", "1-101-A-0.wav,1,0,dog,True,,A", "the speaker is empty; "),
    ("esc-50", "meta/esc50.csv", "9.wav,1,0,dog,True,101,A", "9.wav: no such file; "),
    ("common-voice", "dev.tsv", "\tdev.mp3\tHi.\t2\t0\t\t\t\t\ten\t", "the speaker is empty; "),
    ("common-voice", "dev.tsv", "a\tdev.mp3\tHi.\t2\t0\t\tmle\t\t\ten\t", "unknown gender 'mle'; "),
    ("common-voice", "dev.tsv", "a\tdev.mp3\tHi.\t2\t0\told\t\t\t\ten\t", "unknown age 'old'; "),
    (
        "common-voice",
        "dev.tsv",
        "train-voice\tdev.mp3\tHi.\t2\t0\t\t\t\t\ten\t",
        "'train-voice' is in 'train' and 'validation'; ",
    ),
    ("common-voice", "dev.tsv", "a\tdev.mp3\tHi.", "3 cells, not 11 as the header has"),
    ("librispeech", "dev-clean/84/121/84-121.trans.txt", "99-121-0 HI", "reader '99' is not in "),
    ("librispeech", "dev-clean/84/121/84-121.trans.txt", "84-121-9 HI", "84-121-9.flac: no such "),
    ("librispeech", "SPEAKERS.TXT", "84 | X | dev-clean | 8 | Christie", "not reader . F or M . "),
    ("librispeech", "extra/84/1/84-1.trans.txt", "84-1-0 HI", "unknown part 'extra'; "),
]
HEADS = {
    "VideoDemographics.csv": ["ActorID,Age,Sex"],
    "meta/esc50.csv": [ESC_50_HEAD],
    "dev.tsv": [CV_HEAD],
}


@pytest.mark.parametrize(("name", "file", "words"), FAULTS)
def test_a_bad_file_is_named(tmp_path, name, file, words):
    FOLDERS[name](tmp_path)
    write_noise(tmp_path / file)
    with pytest.raises(CorpusError, match=words):
        PUBLIC_CORPORA[name].build(tmp_path)


@pytest.mark.parametrize(("name", "file", "line", "words"), BAD_LINES)
def test_a_bad_line_is_named(tmp_path, name, file, line, words):
    FOLDERS[name](tmp_path)
    lines = [*HEADS.get(file, []), line]
    write_lines(tmp_path / file, *lines)
    with pytest.raises(CorpusError, match=f", line {len(lines)}: .*{words}"):
        PUBLIC_CORPORA[name].build(tmp_path)


@pytest.mark.parametrize("file", ["SPEAKERS.TXT", "dev-clean/84/121/84-121.trans.txt"])
def test_a_text_in_another_encoding_is_named(tmp_path, file):
    librispeech(tmp_path)
    (tmp_path / file).write_bytes("84 | Gêné".encode("latin-1"))
    with pytest.raises(CorpusError, match="line 1: byte 6 is not utf-8; save the table as UTF-8"):
        LIBRISPEECH.build(tmp_path)


def test_a_speaker_of_whom_a_table_says_two_things_is_refused(tmp_path):
    librispeech(tmp_path)
    with (tmp_path / "SPEAKERS.TXT").open("a") as file:
        file.write("84 | M | dev-clean | 8.02 | Christie\n")
    with pytest.raises(CorpusError, match="speaker '84' is there twice, with other words; keep"):
        LIBRISPEECH.build(tmp_path)
    write_lines(tmp_path / "VideoDemographics.csv", "ActorID,Age,Sex", "1,51,Male", "1,51,Female")
    with pytest.raises(CorpusError, match="line 3: speaker '1' is there twice, with other words"):
        CREMA_D.build(tmp_path)


def test_the_same_recording_unpacked_twice_is_refused(tmp_path):
    for place in ("Actor_12", "again/Actor_12"):
        write_noise(tmp_path / place / "03-01-06-01-02-01-12.wav")
    with pytest.raises(CorpusError, match=r"the same file as .*Actor_12.*; remove one of them"):
        PUBLIC_CORPORA["ravdess"].build(tmp_path)


def test_a_recording_without_a_transcript_is_counted(tmp_path):
    librispeech(tmp_path)
    write_noise(tmp_path / "dev-clean" / "84" / "121" / "84-121-0099.flac")
    assert LIBRISPEECH.build(tmp_path).recipe["left_out"] == {"without a transcript": 1}


# ---- each of them ----


def test_crema_d_leaves_out_the_files_that_are_known_to_be_faulty(tmp_path):
    crema_d(tmp_path)
    actors = ("1001,51,Male", "1002,21,Female", "1076,25,Female")
    write_lines(tmp_path / "VideoDemographics.csv", "ActorID,Age,Sex", *actors)
    write_noise(tmp_path / "AudioWAV" / "1076_MTI_SAD_XX.wav")
    corpus = CREMA_D.build(tmp_path)
    assert corpus.recipe["left_out"] == {"silent": 1}
    assert "1076" not in {clip.speaker for clip in corpus.clips}


def test_a_value_that_the_corpus_does_not_know_is_not_described():
    with pytest.raises(KeyError, match="cannot be 'bored'"):
        CREMA_D.describe({"emotion": "bored"})


def test_every_ravdess_split_has_as_many_women_as_men():
    for actors in RAVDESS_SPLITS.values():
        assert sum(actor % 2 for actor in actors) * 2 == len(actors)
    actors = sorted(actor for actors in RAVDESS_SPLITS.values() for actor in actors)
    assert actors == list(range(1, 25))


def test_ravdess_actors_with_even_numbers_are_women(tmp_path):
    ravdess(tmp_path)
    genders = {clip.speaker: clip.attributes["gender"] for clip in RAVDESS.build(tmp_path).clips}
    women = {speaker for speaker, gender in genders.items() if gender == "female"}
    assert women == {"actor-02", "actor-18", "actor-24"}


def test_esc_50_is_split_by_fold(tmp_path):
    esc_50(tmp_path)
    corpus = PUBLIC_CORPORA["esc-50"].build(tmp_path)
    folds = {split: {clip.audio[6] for clip in corpus.split(split)} for split in corpus.splits}
    assert folds == {"train": {"1", "2", "3"}, "validation": {"4"}, "test": {"5"}}


def test_the_fifty_events_are_fifty_and_stand_in_the_order_of_their_numbers():
    events = list(ESC_50_EVENTS)
    assert len(events) == 50 and set(Counter(ESC_50_EVENTS.values()).values()) == {10}
    numbers = (0, 10, 14, 20, 36, 49)
    names = ["dog", "rain", "chirping birds", "crying baby", "vacuum cleaner", "hand saw"]
    assert [events[number] for number in numbers] == names


def test_common_voice_leaves_out_what_speakers_do_not_tell(tmp_path):
    common_voice(tmp_path)
    corpus = PUBLIC_CORPORA["common-voice"].build(tmp_path)
    (dev,), (test,) = corpus.split("validation"), corpus.split("test")
    assert dev.attributes == {"gender": "female", "age": "forties"}
    assert test.attributes == {}
    assert PUBLIC_CORPORA["common-voice"].describe(test.attributes) == "A speaker speaks."


def test_common_voice_deals_the_speakers_of_the_validated_table_alone(tmp_path):
    head = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent"  # before 2022
    row = "v{}\t{}.mp3\tHello.\t2\t0\tteens\tfemale\tscotland"
    rows = [row.format(number // 2, number) for number in range(8)]
    write_lines(tmp_path / "validated.tsv", head, *rows)
    for number in range(8):
        write_noise(tmp_path / "clips" / f"{number}.mp3", format="MP3")
    corpus = PUBLIC_CORPORA["common-voice"].build(tmp_path)
    speakers = sorted(who for split in corpus.splits.values() for who in split)
    assert speakers == ["v0", "v1", "v2", "v3"]
    assert corpus.clips[0].attributes["accent"] == "scotland"


def test_librispeech_parts_are_its_splits_unless_its_readers_are_dealt(tmp_path):
    librispeech(tmp_path)
    public = PUBLIC_CORPORA["librispeech"]
    own = public.build(tmp_path)
    assert own.splits == {"train": ("60",), "validation": ("84",), "test": ("61",)}
    dealt = public.build(tmp_path, own_splits=False)
    split_of = {who: split for split, people in dealt.splits.items() for who in people}
    assert split_of == {who: deal_speaker(who) for who in ("60", "61", "84")}
