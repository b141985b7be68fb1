"""Messages of the published systems, token for token."""

import pytest

from desta_lab.model import chat
from desta_lab.model.audio_llm import ProvenanceError
from desta_lab.model.chat import SLOT, ChatError
from desta_lab.published import desta2, systems
from tests import tiny
from tests.published import llama
from tests.published.llama import CLOSE, FIRST, HEAD, TURN, llama_tokenizer


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    return llama.system(tmp_path_factory.mktemp("system"))


def header(role: str) -> str:
    return f"{HEAD}{role}{CLOSE}\n\n"


def test_desta25s_messages_are_its_published_layout_token_for_token():
    words = llama_tokenizer()
    system = f"{FIRST}{header('system')}Focus on the audio clips and instructions.{TURN}"
    before = f"{system}{header('user')}<start_audio>"
    after = f"<end_audio>\nWhat is it?{TURN}{header('assistant')}"
    by_hand = [
        *words(before, add_special_tokens=False).input_ids,
        *[SLOT] * 64,
        *words("hello there.", add_special_tokens=False).input_ids,
        *words(after, add_special_tokens=False).input_ids,
    ]
    ours = chat.build_stream(
        words, chat.audio_messages("What is it?"), 64, transcripts=["hello there."]
    )
    assert list(ours.ids) == by_hand
    assert by_hand.count(words.bos_token_id) == 1
    assert words.convert_tokens_to_ids("<start_audio>") is None  # the tags are plain text


def test_desta25s_way_of_a_placeholder_token_gives_the_same_ids():
    words = llama_tokenizer()
    ours = chat.build_stream(words, chat.audio_messages("What is it?"), 64).ids
    text = words.apply_chat_template(
        chat.audio_messages("What is it?"), tokenize=False, add_generation_prompt=True
    )
    words.add_tokens([chat.AUDIO])  # as there: the placeholder becomes a token, then slots
    theirs = words(
        text.replace(chat.AUDIO, f"<start_audio>{chat.AUDIO}<end_audio>"), add_special_tokens=False
    ).input_ids
    at = theirs.index(words.convert_tokens_to_ids(chat.AUDIO))
    assert list(ours) == [*theirs[:at], *[SLOT] * 64, *theirs[at + 1 :]]


def turns(path: str = "/clips/a.wav") -> list[dict[str, str]]:
    return [
        {"role": "system", "content": "Focus on the audio clips."},
        {"role": "audio", "content": path},
        {"role": "user", "content": "What is it?"},
    ]


def test_desta2s_messages_are_what_its_released_code_makes_with_both_quirks():
    words = llama_tokenizer()
    system = [HEAD, "system", CLOSE, "\n\n", "Focus on the audio clips.", TURN]
    before = [
        FIRST,
        FIRST,
        *system,
        HEAD,
        "audio",
        CLOSE,
    ]  # BOS twice; the header's line break comes after the clip
    after = [
        "\n\n",
        " hello there.",
        TURN,
        HEAD,
        "user",
        CLOSE,
        "\n\n",
        "What is it?",
        TURN,
        HEAD,
        "assistant",
        CLOSE,
        "\n\n",
    ]
    left, right = (
        [i for part in parts for i in chat.encode_text(words, part)] for parts in (before, after)
    )
    ours = desta2.build_desta2_stream(words, turns(), 64, " hello there.")
    assert list(ours.ids) == [*left, *[SLOT] * 64, *right]
    assert ours.start == len(ours.ids)
    assert ours.response == ()


def test_without_a_doubled_bos_the_clip_of_desta2_stands_where_it_should():
    words = tiny.tokenizer()
    ids = desta2.build_desta2_stream(words, turns(), 3, "").ids
    assert words.decode(ids[: ids.index(SLOT)]).endswith(f"{tiny.START}audio\n")


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (turns()[::2], "here are 0 audio messages"),
        ([*turns(), turns()[1]], "here are 2 audio messages"),
        (turns("audio"), "'audio' stands 3 times in the conversation"),
    ],
)
def test_desta2_hears_exactly_one_clip(messages, said):
    with pytest.raises(ChatError, match=said):
        desta2.build_desta2_stream(llama_tokenizer(), messages, 3, "")


def test_desta2_answers_its_own_messages(system):
    preset, file, _ = system
    llm = systems.open_system(file, preset)
    llm.transcribe = lambda waves: ["hello there."]
    clip = str(file.parent / "clip.wav")
    written = desta2.answer_desta2(llm, turns(clip), max_new_tokens=4)
    given = desta2.answer_desta2(llm, turns(clip), " hello there.", max_new_tokens=4)
    assert written == given
    assert written.audios == [[(clip, " hello there.")]]
    assert 1 <= len(written.ids[0]) <= 4
    llm.transcribe = None
    with pytest.raises(ProvenanceError, match="no Whisper decoder"):
        desta2.answer_desta2(llm, turns(clip))
