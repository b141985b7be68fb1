"""A GGUF file comes back as an LLM that answers."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from desta_lab.model.weights import find_weights


@pytest.mark.weights
def test_smollm2_knows_the_capital_of_france():
    folder = find_weights("SmolLM2-135M-Instruct")
    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForCausalLM.from_pretrained(folder),
    )
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert prompt.startswith(
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    )
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    out = model.generate(**ids, do_sample=False, max_new_tokens=20)[0, ids.input_ids.shape[1] :]
    assert "Paris" in tokenizer.decode(out)
    assert out[-1] == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.weights
def test_smollm2_splits_digits_one_by_one_and_keeps_every_character():
    tokenizer = AutoTokenizer.from_pretrained(find_weights("SmolLM2-135M-Instruct"))
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    for text in ("  two  spaces, 3.14 and\n\n\tdon't", "naïve 日本語 🎧<|im_end|>"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
