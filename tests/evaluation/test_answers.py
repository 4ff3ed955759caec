"""Reading answers: the ways that models write a letter, what must not be read, laws, and real outputs."""

from __future__ import annotations

import importlib.util
import itertools
import re
import string
import sys
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT
from diq.base.errors import UsageError
from diq.evaluation.answers import SCORING, contains, extract, mark, normalise, read_tags, scoring

from . import held_out

SHARED = ROOT.parent / "shared" / "data"
TRACES = SHARED / "raw" / "mmlu_pro_traces"

FOUR = {"A": "Thalassemia", "B": "Iron deficiency anemia", "C": "Vitamin B12 deficiency", "D": "Lead poisoning"}
TEN = dict(
    zip(
        "ABCDEFGHIJ",
        ["Ibuprofen", "Iron", "Copper", "Zinc", "Selenium", "Iodine", "Cobalt", "Nickel", "Iron deficiency", "Lead"],
        strict=True,
    )
)

# every one chooses B of `FOUR`
WAYS = [
    "Okay, so the answer's B.",
    "根据分析，选项B是正确的。",
    "选项A错误，选项B正确。",
    "综上所述，最可能的诊断是缺铁性贫血，因此答案选B。",
    "Iron deficiency anemia (B)",
    "The patient most likely has **iron deficiency anemia** (Option B).",
    "the answer should be B instead of A",
    "Diagnosis: B. Iron deficiency anemia",
    "So, the final answer is:\n\n$$\\boxed{B}$$",
    "**Correct Answer:** **B. Iron**\n\n**Why not:**\nA. Thalassemia - normal ferritin\nC. Vitamin B12 - macrocytic",
    "The answer is ___B___",
    "Answer: _B_",
    "最终答案：\\boxed{B}",
    "The answer is (B).",
    "The answer is B.",
    "the answer is b",
    "answer: B",
    "Answer:B",
    "**Answer: B**",
    "**Answer:** B",
    "__Answer__: B",
    "Answer - B",
    "Answer = B",
    "ANSWER B",
    "Ans. B",
    "Ans: B",
    "ans: (b)",
    "Answer (B)",
    "\\boxed{B}",
    "\\boxed{\\text{B}}",
    "\\boxed{\\textbf{(B)}}",
    "\\boxed{B. Iron deficiency anemia}",
    "\\boxed{\\text{B. Iron}}",
    "$\\boxed{B}$",
    "\\[\\boxed{\\mathrm{B}}\\]",
    "\\fbox{B}",
    "\\boxed B",
    "<answer>B</answer>",
    "<answer>\nB\n</answer>",
    "<answer>(B) Iron deficiency anemia</answer>",
    "<final_answer>B</final_answer>",
    "[ANSWER]B[/ANSWER]",
    '{"answer": "B"}',
    "{'answer': 'B'}",
    '{"reasoning": "A patient ...", "final_answer": "B"}',
    '{"answer_letter":"B","confidence":0.9}',
    '```json\n{"answer": "b"}\n```',
    '{"answer": "B. Iron deficiency anemia"}',
    '{\\"answer\\": \\"B\\"}',
    '{"choice": "B"}',
    '{"answer_idx": "B"}',
    "Option B",
    "option b",
    "B) Iron deficiency anemia",
    "B. Iron deficiency anemia",
    "(B) Iron deficiency anemia",
    "B: Iron deficiency anemia",
    "B - Iron deficiency anemia",
    "B, because the ferritin is low.",
    "B",
    "b",
    "B.",
    "(B)",
    "(b)",
    "[B]",
    "**B**",
    "*B*",
    "`B`",
    '"B"',
    "'B'",
    "$B$",
    "{B}",
    "<B>",
    "B)",
    "The correct option is B",
    "The correct option is: B",
    "correct choice: b",
    "The best choice would be B",
    "The right answer must be (B)",
    "The correct answer should be option B.",
    "Therefore, B is correct",
    "Therefore, B is correct.",
    "So the correct answer is B because the ferritin is low.",
    "Thus, option B is the correct answer.",
    "B is the correct answer",
    "(B) is the best answer.",
    "Option (B) is correct.",
    "Choice B is right.",
    "I believe B is the answer.",
    "Hence (B) Iron deficiency anemia is the correct choice.",
    "Final Answer: The final answer is $\\boxed{B}$",
    "Final answer: B",
    "### Final answer\n\nB",
    "## Answer\n\n**B**",
    "### Answer:\nB. Iron deficiency anemia",
    "Final Answer\n(B)",
    "Answer\n\nB",
    "Ｂ",
    "（Ｂ）",
    "答案是 B",
    "答案是B。",
    "答案：B",
    "答案:B",
    "正确答案是B",
    "正确答案为 (B)",
    "选B",
    "选 B。",
    "故选B",
    "因此，答案是B选项。",
    "我选择B",
    "本题选B",
    "正确选项是 B",
    "答案应该是 **B**",
    "【答案】B",
    "答案为：B. Iron deficiency anemia",
    "因此选B",
    "所以选择选项B",
    "I choose B",
    "I would choose (B).",
    "I'd go with B",
    "I'll go with option B.",
    "I pick B",
    "I select option B",
    "My answer would be B",
    "my answer is b.",
    "My final answer: B",
    "We should select B.",
    "Answer: B. Iron deficiency anaemia",
    "Answer: (B) Iron deficiency anemia",
    "Answer: B) Iron deficiency anemia",
    "Answer: Option B",
    "Answer: option (B): Iron deficiency anemia",
    'Answer: "B"',
    "Answer: B - Iron deficiency anemia",
    "Answer is B",
    "Answer is option B: Iron deficiency anemia",
    "The answer is B, not C",
    "The answer is B, not C.",
    "The answer is B rather than C.",
    "The answer is B and not C.",
    "The answer is not A but B.",
    "The answer is not A. The answer is B.",
    "It is not A, so the answer is B.",
    "A is incorrect. B is correct. C is incorrect. D is incorrect.",
    "A is wrong. C is wrong. D is wrong. B is correct.",
    "(A) is incorrect, (C) is incorrect, (D) is incorrect, so (B) is correct.",
    "B\n\nExplanation: the ferritin is low. A patient with thalassemia would have a normal one.",
    "(B)\n\nA is wrong since the ferritin is low.",
    "B. Iron deficiency anemia\n\nThe ferritin is low.",
    "**B. Iron deficiency anemia**\n\nA low ferritin is typical.",
    "The answer is A... wait, no, the answer is B.",
    "The answer is A. Wait, actually, let me reconsider. The answer is B",
    "Answer: A\n\nCorrection: the answer is B.",
    "The answer is C? No, it is not. The answer is B.",
    "Answer: A. Actually, it's B.",
    "<think>The answer is A. Or C?</think>\nThe answer is B.",
    "<think>\nMaybe A\n</think>\n\nB",
    "The answer might be A</think>B",
    "## Thinking\n\nThe answer is A, no, C.\n\n## Final Response\n\nThe answer is B.",
    "<think>A</think><answer>B</answer>",
    "The most likely diagnosis is (B).",
    "The most likely diagnosis is:\n\n**B. Iron deficiency anemia**",
    "The most likely diagnosis is therefore option B.",
    "Based on the low ferritin, this matches option B.",
    "The correct diagnosis is: B. Iron deficiency anemia",
    "The answer that fits best is (B).",
    "The answer to this question is B",
    "The answer, given the low ferritin, is (B).",
    "The best answer for this patient is option B.",
    "Among the choices, the answer is clearly B.",
    "The answer is: B",
    "The answer is:\n\nB",
    "The answer is:\n\n(B) Iron deficiency anemia",
    "The answer is **B**.",
    'The answer is "B".',
    "The answer is 'B'.",
    "The answer is option (B).",
    "The answer is choice B",
    "The answer is letter B.",
    "The answer is the option B.",
    "The answer is [B].",
    "The answer is {B}.",
    "The answer is <B>",
    "The correct answer is B: Iron deficiency anemia",
    "The correct answer is B Iron deficiency anemia",
    "the correct answer is b. iron deficiency anemia",
    "The answer is likely B.",
    "The answer is most likely (B)",
    "The answer is therefore B",
    "The answer would be B",
    "The answer: (B)",
    "Correct Answer: B",
    "Correct answer (B)",
    "\\text{The answer is (B)}",
    "\\[ \\text{The answer is } (B) \\]",
    "The answer is $\\mathbf{B}$.",
    "The answer is \\( \\boxed{B} \\).",
    "A. Thalassemia - incorrect\nB. Iron deficiency anemia - correct\nC. Vitamin B12 deficiency - incorrect",
    "- A: This is incorrect.\n- B: This is correct.\n- C: This is incorrect.",
    "A) Thalassemia: wrong.\nB) Iron deficiency anemia: Correct! The ferritin is low.",
    "Let's go through the options.\nA. Thalassemia: no.\nB. Iron deficiency anemia: yes.\n\nThe answer is B.",
    "<b>Answer:</b> B",
    "<p>The answer is <strong>B</strong></p>",
    "Answer: &quot;B&quot;",
    "&lt;answer&gt;B&lt;/answer&gt;",
    "> **Answer: B**",
    "- **B**",
    "| Answer | B |\nAnswer: B",
    "The answer is (B) Iron deficiency anemia. A is wrong because the ferritin is low.",
    "Answer: B\n\nQuestion: What is next?\nAnswer: C",
    "B<|im_end|>",
    "The answer is B.\n\nHuman: thanks",
    "The answer is (B).\n\nNow, let's summarize all the answers:\nA. first\nC. second",
    "If the answer were A, the ferritin would be high. The answer is B.",
    "The incorrect answers are A, C and D. The answer is B.",
    "I think the answer is B",
    "A patient with low ferritin needs iron. Answer: B",
    "answer B.",
    "The correct letter is B.",
    "Ⓑ",
    "𝐁",
    "The answer is 𝐁.",
    "B\u200b",
    "The answer is\xa0B",
    "Answer ➡ B",
    "Answer → B",
    "✅ B",
    "👉 Answer: B",
    "So, B.",
    "Therefore, the answer is B",
    "Selected option: B",
    "Chosen answer: B",
    "Option B is the most appropriate answer.",
    "Therefore, option B is the most likely.",
    "leaving B as the correct answer",
    "Response: B",
    "It's B.",
    "It is B",
    "Choose B",
    "Select B.",
    "The answer is B (Iron deficiency anemia)",
    "Answer: B (iron)",
    "Answer: B; the ferritin is low",
    "Answer: B — iron",
    "Answer: B – iron",
    "The answer is B – Iron deficiency anemia.",
    "(B).",
    "((B))",
    "B.Iron deficiency anemia",
    "Answer: B.Iron deficiency anemia",
    "Answer : B",
    "The answer is :B",
    "The final answer is B",
    "Final answer is option: B",
    "Ans - B",
    "ANSWER: B",
    "THE ANSWER IS B",
    "answer is: b)",
    "Answer: b)",
    "Answer: b) iron deficiency anemia",
    "The answer, B, is common.",
    "The correct answer (B) is supported by the low ferritin.",
    "Answer: not A, but B.",
    "The answer can't be A or C, so it's B.",
    "So the answer isn't C; it's B.",
    "The best next step is to treat. B is the answer.",
    "Vitamin A is fine and vitamin C is fine. The answer is B.",
    "I think that (A) is tempting, but (B) is correct.",
    "(A) is correct in part. However, the answer is (B)",
    "The answer is (B), since (A) and (C) are wrong.",
    "The answer is B. A and C are wrong.",
    "The answer is B, and A is wrong.",
    "The answer is (B) and not (A).",
    "The answer is B or, put differently, iron deficiency anemia.",
    "Answer: B\nConfidence: A lot",
    "Answer: B\n\nNote: option A is a distractor.",
    "After weighing A, C, and D, I settle on B.",
    "None of A, C or D fit. Option B does. Answer B.",
    "\n\n\nB\n\n",
    "(B",
    "B:",
    "answer is B\\n",
    "The answer is \\text{B}.",
    "The answer is $B$ .",
    "Final Answer\n\\boxed{\\text{(B)}}",
    "The best option to treat this patient is B.",
    "The best answer choice is B.",
    "The answer choice is (B).",
    "Answer choice: B",
    "The correct answer choice is option B: Iron deficiency anemia.",
]

# the option is given by its text
TEXTS = [
    ("The answer is iron deficiency anemia.", "B"),
    ("The answer is Iron Deficiency Anemia because the ferritin is low", "B"),
    ("Answer: lead poisoning", "D"),
    ("The correct answer is vitamin B12 deficiency.", "C"),
    ("\\boxed{\\text{Lead poisoning}}", "D"),
    ('{"answer": "Lead poisoning"}', "D"),
    ("<answer>thalassemia</answer>", "A"),
    ("Iron deficiency anemia", "B"),
    ("iron deficiency anemia.", "B"),
    ("The answer is thalassemia, not iron deficiency anemia.", "A"),
    ("Iron deficiency anemia is the correct answer.", "B"),
    ("Answer: the patient has lead poisoning", "D"),
    ("The answer is iron deficiency", "B"),
    ("The answer is vitamin B12", "C"),
    ("The final answer is: **Lead poisoning**", "D"),
    ("答案是 Lead poisoning", "D"),
]

# nothing can be read from these, with the options of `FOUR`
NOTHING = [
    "Answer: B/C",
    "Answer: B or C",
    "选项A不正确。",
    "答案不是A。",
    "Copper is low (A or B)",
    "",
    "   ",
    "A patient with a fever.",
    "I think so.",
    "I do not know.",
    "I cannot answer this.",
    "The patient has hepatitis B.",
    "Vitamin C is low.",
    "Group B strep is found.",
    "type A blood is found",
    "A low ferritin is typical of this disease.",
    "I",
    "The answer is A patient with anemia.",
    "The answer is I think unclear",
    "the answer is a matter of debate",
    "The answer is not A.",
    "A is incorrect.",
    "The answer is unknown.",
    "The answer is A and B.",
    "A and B",
    "Answer: A, B",
    "B or C",
    "<think>The answer is B",
    "<think>It is B. So",
    "## Thinking\nThe answer is B",
    "The answer is B12.",
    "The answer is B-cell lymphoma.",
    "The answer is vitamin C.",
    "The answer is hepatitis A.",
    "The answer is E. coli",
    "The answer is I'm not sure",
    "The answer is a",
    "The answer is (E).",
    "answer is H. pylori infection",
    "Answer: None of the above",
    "Please answer with A, B, C or D.",
    "A. Thalassemia\nB. Iron deficiency anemia\nC. Vitamin B12 deficiency\nD. Lead poisoning",
    "i.e., the dose",
    "The answer is IV fluids",
    "Answer choices: A, B, C, D",
    "Options: A, B",
    "The answer is AB.",
    "The answer is (A)(B)",
    "B and C are correct.",
    "If the answer is A, then the ferritin is high.",
    "Whether the answer is A is unclear.",
    "The wrong answer is A.",
    "It is not the answer B.",
    "Neither A nor B is the answer.",
    "All options are wrong.",
    "None of the options is correct.",
    "The answer is either A or B.",
    "Both A and B are correct answers.",
    "(A) and (C) are the correct answers.",
    "We choose A if the ferritin is high.",
    "Group A streptococcus",
    "I am a doctor.",
    "Hepatitis B is likely",
    "\\boxed{}",
    "<answer></answer>",
    '{"answer": null}',
    "Answer:",
    "The answer is",
    "The answer is:",
    "Sure! Let me think step by step.\n\n1. A patient",
    "B lymphocytes make antibodies",
    "A\nB\nC\nD",
    "The answer is C. difficile",
    "Vitamin B is correct in principle",
    "answer: a patient",
]


@pytest.mark.parametrize("output", WAYS)
def test_ways_to_write_a_letter(output: str) -> None:
    assert extract(output, FOUR).letter == "B"


@pytest.mark.parametrize(("output", "letter"), TEXTS)
def test_text_given_as_the_answer(output: str, letter: str) -> None:
    read = extract(output, FOUR)
    assert (read.letter, read.how) == (letter, "text answer")


@pytest.mark.parametrize("output", NOTHING)
def test_nothing_is_read(output: str) -> None:
    assert extract(output, FOUR).letter is None


@pytest.mark.parametrize(
    ("output", "how"),
    [
        (r"So \boxed{B}", "boxed"),
        ("<answer>B</answer>", "tag"),
        ('{"answer": "B"}', "json"),
        ("The answer is B.", "answer phrase"),
        ("I would go with B.", "choice phrase"),
        ("(B) is the correct answer.", "named the answer"),
        ("B\n\nThe ferritin is low.", "lone letter"),
        ("The answer is lead poisoning.", "text answer"),
        ("It fits.\n\nB. Iron deficiency anemia", "labelled line"),
        ("A is wrong. B is correct.", "said correct"),
        ("The most likely diagnosis is (B).", "conclusion"),
        ("The answer is A and B.", "several"),
        ("The answer is (CB).", "several"),
        ("The answer is (A-D).", "several"),
        ("The answer is (A)(B).", "several"),
        ("(C) and (B) are the correct answers.", "several"),
        ("B and C are correct.", "several"),
        ("The answer is a combination of (B) and (C).", "several"),
        ("The answer is (E).", "no such option"),
        ("<think>The answer is B", "cut thinking"),
        ("## Thinking\n\nThe answer is B", "cut thinking"),
        ("I cannot answer this.", "nothing"),
    ],
)
def test_how_names_the_rule(output: str, how: str) -> None:
    assert extract(output, FOUR).how == how


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("I think so.", None),
        ("I", "I"),
        ("The answer is I.", "I"),
        ("The answer is (I), I think.", "I"),
        ("Answer: I think it's B", "B"),
        ("Answer: I", "I"),
        ("I am sure that I need more.", None),
        ("The answer is iron.", "B"),
        ("The answer is iron deficiency.", "I"),
        ("The answer is iron, not iron deficiency.", "B"),
        ("The answer is iron oxide.", None),
        ("The answer is J", "J"),
    ],
)
def test_ten_options_hold_the_pronoun_and_texts_in_texts(output: str, letter: str | None) -> None:
    assert extract(output, TEN).letter == letter


@pytest.mark.parametrize(
    ("options", "output", "letter"),
    [
        # texts that are letters: the letter of the option counts, but for texts of several letters
        ({"A": "O", "B": "A", "C": "AB", "D": "B"}, "The answer is B.", "B"),
        ({"A": "O", "B": "A", "C": "AB", "D": "B"}, "The answer is AB.", "C"),
        ({"A": "I only", "B": "I and II", "C": "II and III"}, "The answer is I and II.", "B"),
        ({"A": "I only", "B": "I and II", "C": "II and III"}, "The answer is I only", "A"),
        ({"A": "Both", "B": "A and C", "C": "None"}, "The answer is A and C.", "B"),
        # texts that begin like a label
        ({"A": "S. aureus", "B": "E. coli", "C": "C. difficile"}, "The answer is C. difficile.", "C"),
        ({"A": "S. aureus", "B": "E. coli", "C": "C. difficile"}, "The answer is E. coli.", "B"),
        ({"A": "C. difficile", "B": "E. coli", "C": "S. aureus"}, "The answer is C. difficile.", "A"),
        ({"A": "B cells", "B": "T cells"}, "The answer is B cells.", "A"),
        ({"A": "An increase", "B": "A decrease in pressure"}, "The answer is a decrease in pressure.", "B"),
        ({"A": "An increase", "B": "A decrease in pressure"}, "The answer is: A decrease in pressure", "B"),
        ({"A": "A. Iron", "B": "B. Copper"}, "The answer is copper.", "B"),
        # numbers
        ({"A": "5", "B": "15", "C": "0.5", "D": "-5"}, "The answer is 15.", "B"),
        ({"A": "5", "B": "15", "C": "0.5", "D": "-5"}, "The answer is 0.5", "C"),
        ({"A": "5", "B": "15", "C": "0.5", "D": "-5"}, "The answer is −5.", "D"),
        ({"A": "5", "B": "15", "C": "0.5", "D": "-5"}, r"Thus \(\boxed{15}\)", "B"),
        ({"A": "5", "B": "15"}, "The answer is 50.", None),
        ({"A": "5 mg", "B": "50 mg"}, "The answer is 5mg daily", "A"),
        ({"A": "5 mg", "B": "50 mg"}, "The answer is 5mg.", "A"),
        ({"A": "1,000 mL", "B": "100 mL"}, "The answer is 1000 mL.", "A"),
        # repeated, empty and odd texts
        ({"A": "Iron", "B": "Iron"}, "The answer is iron.", None),
        ({"A": "", "B": "Iron"}, "The answer is", None),
        ({"A": "β-blocker", "B": "Crohn’s disease"}, "The answer is a beta-blocker.", "A"),
        ({"A": "β-blocker", "B": "Crohn’s disease"}, "The answer is Crohn's disease.", "B"),
        ({"A": "Sjögren syndrome", "B": "x &lt; 5"}, "The answer is Sjogren Syndrome.", "A"),
        ({"A": "Sjögren syndrome", "B": "x &lt; 5"}, "The answer is x < 5.", "B"),
        ({"A": r"$\frac{1}{4}$", "B": r"\(2 \times 10^{-5}\)"}, "The answer is 1/4.", "A"),
        ({"A": r"$\frac{1}{4}$", "B": r"\(2 \times 10^{-5}\)"}, "The answer is 2 × 10⁻⁵", "B"),
        ({"A": "No", "B": "Yes"}, "The answer is no longer clear", None),
        ({"A": "No", "B": "Yes"}, "The answer is no.", "A"),
        ({"A": "Potassium", "B": "Sodium"}, "The answer is potassium chloride.", None),
        ({"A": "缺铁性贫血", "B": "地中海贫血"}, "答案是缺铁性贫血。", "A"),
        # keys as the caller writes them
        ({"a": "Iron", "b": "Copper"}, "The answer is (B).", "b"),
        ({}, "The answer is (B).", None),
    ],
)
def test_texts_of_options(options: dict[str, str], output: str, letter: str | None) -> None:
    assert extract(output, options).letter == letter


def test_the_last_statement_decides() -> None:
    statements = ["The answer is {}.", r"\boxed{{{}}}", "Answer: {}", "({}) is the correct answer.", "I choose {}."]
    for first, last in itertools.permutations(statements, 2):
        assert extract(f"{first.format('A')}\n\nNo, wait.\n\n{last.format('C')}", FOUR).letter == "C"


def test_thinking_decides_only_where_nothing_follows_a_closed_block() -> None:
    assert extract("<think>The answer is A.</think>The answer is C.", FOUR).letter == "C"
    assert extract("<think>The answer is A.</think>\n", FOUR).letter == "A"
    assert extract("<think>A? Perhaps B</think>\n", FOUR).letter is None
    assert extract("The answer is C.\n<think>Or is the answer A", FOUR).letter == "C"
    assert extract("analysis: the answer is A<|channel|>final<|message|>C", FOUR).letter == "C"
    assert extract("## Thinking\n### Step 1\nThe answer is A.\n## Final Response\nC.", FOUR).letter == "C"


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        *held_out.CORRECTIONS, *held_out.CHINESE, *held_out.LANGUAGES, *held_out.FRESH, *held_out.FRESHER,
        *held_out.REJECTED, *held_out.NOT_BUT, *held_out.NEWEST, *held_out.LAST,
    ],
)  # fmt: skip
def test_corrections_and_cues_of_other_languages(output: str, letter: str | None) -> None:
    assert (extract(output, FOUR).letter == letter) is (output not in held_out.MISSED)


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        *held_out.NEGATIONS,
        ("\\boxed{None of the above}", "E"),
        ("None of the given options is correct.", "E"),
        ("Therefore, none of the above is correct.", "E"),
    ],
)
def test_an_option_that_begins_with_a_negation_is_no_rejection(output: str, letter: str | None) -> None:
    assert extract(output, held_out.NONE_TOO).letter == letter


@pytest.mark.parametrize(
    ("options", "output", "letter"),
    [
        ({"A": "None", "B": "One", "C": "Two"}, "The answer is none.", "A"),
        ({"A": "None", "B": "One", "C": "Two"}, "The answer is none of these.", "A"),
        ({"A": "None", "B": "One", "C": "Two"}, "The answer is not one.", None),
        (held_out.NONE_TOO, "Answer: No, treatment needed is aspirin", "A"),
        (held_out.NONE_TOO, "Answer: No further treatment, since she is well.", "D"),
        (held_out.NONE_TOO, "No. Further treatment is aspirin.", None),
        (held_out.NONE_TOO, "B. Not indicated", "B"),
        # the letter counts where the text is another's, and this one is rejected
        (held_out.NONE_TOO, "A. Not indicated", None),
        ({"A": "Copper", "B": "Iron"}, "A. Iron", "A"),
        ({"A": "No, it is safe", "B": "Yes, it is toxic", "C": "No"}, "The answer is no, it is safe.", "A"),
        ({"A": "No, it is safe", "B": "Yes, it is toxic", "C": "No"}, "Answer: No, because it is tested", "C"),
        ({"A": "Always", "B": "Never", "C": "Sometimes"}, "The answer is: never.", "B"),
        ({"A": "Always", "B": "Never", "C": "Sometimes"}, "The answer is never A.", None),
        ({"A": "No treatment", "B": "Aspirin"}, "The correct answer is no treatment.", "A"),
        ({"A": "Not a contraindication", "B": "Aspirin"}, "Answer: Not a contraindication", "A"),
        ({"A": "Neither of these", "B": "Aspirin"}, "The answer is neither of these.", "A"),
        ({"A": "Cannot be determined", "B": "Aspirin"}, "The answer is cannot be determined.", "A"),
        ({"A": "Unlikely to recur", "B": "Aspirin"}, "The answer is unlikely to recur.", "A"),
        ({"A": "缺铁性贫血", "B": "以上都不是"}, "答案是以上都不是。", "B"),
        ({"A": "缺铁性贫血", "B": "以上都不是"}, "答案：以上都不是", "B"),
        ({"A": "缺铁性贫血", "B": "以上都不是"}, "故选以上都不是", "B"),
        ({"A": "缺铁性贫血", "B": "以上均不正确"}, "正确答案为以上都不是", "B"),
        ({"A": "缺铁性贫血", "B": "不需要治疗"}, "答案是不需要治疗。", "B"),
        ({"A": "缺铁性贫血", "B": "以上都不是"}, "答案不是缺铁性贫血。", None),
    ],
)
def test_other_negated_options(options: dict[str, str], output: str, letter: str | None) -> None:
    assert extract(output, options).letter == letter


@pytest.mark.parametrize("output", held_out.CUT)
def test_thinking_that_is_cut_answers_nothing_in_any_tags(output: str) -> None:
    read = extract(output, FOUR)
    assert (read.letter, read.how) == (None, "cut thinking")


@pytest.mark.parametrize("output", held_out.CLOSED)
def test_closed_thinking_does_not_count_in_any_tags(output: str) -> None:
    assert extract(output, FOUR).letter == "B"
    # not for the second step either
    assert not mark(output, FOUR, "A").is_right


@pytest.mark.parametrize(
    ("opens", "closes"),
    [
        ("<think>", "</think>"),
        ("<Thinking>", "</Thinking>"),
        ('<reasoning effort="high">', "</reasoning>"),
        ("<antthinking>", "</antthinking>"),
        ("<begin_of_thought>", "<end_of_thought>"),
        ("<|think|>", "<|/think|>"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("<|thinking_start|>", "<|thinking_end|>"),
        ("[THINK]", "[/THINK]"),
        ("[BEGIN OF THINKING]", "[END OF THINKING]"),
        ("<unused94>thought\n", "<unused95>"),
        ("<|channel>thought\n", "<channel|>"),
        ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
        ("<|channel|>analysis<|message|>", "<|channel|>final <|constrain|>text<|message|>"),
        ("<|inner_prefix|>", "<|inner_suffix|>"),
        ("Here is my thought process:\n", "\nHere is my response:"),
    ],
)
def test_every_family_of_tags_opens_and_closes(opens: str, closes: str) -> None:
    assert extract(f"{opens}The answer is A.", FOUR).how == "cut thinking"
    for text in (f"{opens}The answer is A.{closes}\nThe answer is B.", f"The answer is A.{closes}\nThe answer is B."):
        assert extract(text, FOUR).letter == "B"
    # where nothing follows a closed block, what it states counts
    assert extract(f"{opens}The answer is A.{closes}", FOUR).letter == "A"


@pytest.mark.parametrize(
    "text", ["<no_think>The answer is B.", "[Reasoning]\nB12 is high.\n[Answer]\nB", "/no_think The answer is B."]
)
def test_what_only_looks_like_a_tag_opens_nothing(text: str) -> None:
    assert extract(text, FOUR).letter == "B"


def test_a_user_adds_tags() -> None:
    tags = read_tags(["<analysis>=</analysis>", " BEGIN-NOTES = END-NOTES ", "<analysis>=</analysis>"])
    assert tags == (("<analysis>", "</analysis>"), ("BEGIN-NOTES", "END-NOTES"))
    assert (scoring(), scoring(tags)) == (SCORING, f"{SCORING} <analysis>=</analysis> BEGIN-NOTES=END-NOTES")
    cut = "<analysis>Thalassemia? The answer is A"
    assert extract(cut, FOUR).letter == "A"
    assert extract(cut, FOUR, tags).how == "cut thinking"
    closed = "begin-notes thalassemia: the answer is A end-notes The answer is B."
    assert mark(closed, FOUR, "A").is_right
    assert mark(closed, FOUR, "A", tags).letter == "B"
    assert not mark(closed, FOUR, "A", tags).is_right
    # the table still counts
    assert extract("<think>The answer is A", FOUR, tags).how == "cut thinking"
    # what stands in a pattern is taken as it is written
    assert extract("[.*] The answer is A", FOUR, read_tags(["[x.*]=[y]"])).letter == "A"


@pytest.mark.parametrize("text", ["<analysis>", "<a>=", "=<b>", "", "**=**"])
def test_tags_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="OPEN=CLOSE"):
        read_tags([text])


def test_tags_that_are_markup_are_refused() -> None:
    with pytest.raises(UsageError, match="markup"):
        read_tags(["<div>=</div>"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  Iron  Deficiency\tAnemia. ", "iron deficiency anemia"),
        ("Crohn’s", "crohns"),
        ("TNF-α", "tnf alpha"),
        ("10⁻⁵", "10^-5"),
        ("10^{-5}", "10^-5"),
        ("2 \\times 10^{-5}", "2 x 10^-5"),
        ("1,234.5 mg", "1234.5 mg"),
        ("5 %", "5%"),
        ("−5", "-5"),
        ("HIV-1", "hiv 1"),
        ("H₂O", "h2o"),
        ("Ca^{2+}", "ca2 +"),
        ("&lt;5 &amp; more", "< 5 and more"),
        ("**B**", "b"),
        ("Ｂ", "b"),
        (r"\text{Iron}", "iron"),
        ("...", ""),
    ],
)
def test_normalise(text: str, words: str) -> None:
    assert normalise(text) == words


@pytest.mark.parametrize(
    ("output", "options", "is_there"),
    [
        ("The environment matters.", {"A": "Iron"}, False),
        ("Give iron.", {"A": "Iron"}, True),
        ("Iron deficiency is common.", {"A": "Iron", "B": "Iron deficiency"}, False),
        ("Iron deficiency needs iron.", {"A": "Iron", "B": "Iron deficiency"}, True),
        ("IRON\n DEFICIENCY", {"A": "Iron deficiency."}, True),
        ("It takes 150 days.", {"A": "15 days"}, False),
        ("It takes 15 days.", {"A": "15 days"}, True),
        ("It is 1.234 or so", {"A": "234"}, False),
        ("It is 234.", {"A": "234"}, True),
        ("There are 5 of them.", {"A": "5"}, False),
        ("No, none of them.", {"A": "No"}, False),
        ("None of the above", {"A": "None of the above"}, False),
        ("type A", {"A": "A"}, False),
        ("<think>Give iron.</think>Give copper.", {"A": "Iron"}, False),
        ("<think>Give iron.", {"A": "Iron"}, False),
        ("anything", {"A": ""}, False),
        ("anything", {"B": "anything"}, False),
    ],
)
def test_contains(output: str, options: dict[str, str], is_there: bool) -> None:
    assert contains(output, options, "A") is is_there


def test_two_steps() -> None:
    by_option = mark("The answer is (B).", FOUR, "B")
    assert (by_option.step, by_option.is_right, by_option.is_right_strict) == ("option", True, True)
    # no option is read, so the text decides in both rules
    by_text = mark("This looks like iron deficiency anemia to me.", FOUR, "B")
    assert (by_text.step, by_text.is_right, by_text.is_right_strict) == ("text", True, True)
    several = mark("Iron deficiency anemia. The answer is A and B.", FOUR, "B")
    assert (several.how, several.step, several.is_right_strict) == ("several", "text", True)
    # another option was chosen, and the right one only discussed
    despite = mark("Not iron deficiency anemia. The answer is (A).", FOUR, "B")
    assert (despite.letter, despite.step, despite.is_right, despite.is_right_strict) == ("A", "text", True, False)
    wrong = mark("The answer is (A).", FOUR, "B")
    assert (wrong.step, wrong.is_right, wrong.is_right_strict) == (None, False, False)


TEMPLATES = [
    "The answer is ({}).",
    "The answer is {}.",
    "The answer is: {}",
    "Answer: {}",
    "**Answer: {}**",
    "**Answer:** {}",
    "ANSWER {}",
    "Ans. {}",
    r"\boxed{{{}}}",
    r"$\boxed{{\text{{{}}}}}$",
    r"\boxed{{({})}}",
    "<answer>{}</answer>",
    '{{"answer": "{}"}}',
    "The correct option is {}.",
    "The correct choice is ({}).",
    "Therefore, {} is correct.",
    "Final Answer: The final answer is $\\boxed{{{}}}$",
    "### Final answer\n\n{}",
    "Option {} is the correct answer.",
    "({}) is the correct answer.",
    "I choose {}.",
    "I would go with option {}.",
    "My answer would be {}.",
    "答案是 {}",
    "答案：{}",
    "故选{}。",
    "【答案】{}",
    "The answer is **{}**.",
    "The most likely diagnosis is ({}).",
]
# sentences without an option, with articles, pronouns and names that hold letters
NEUTRAL = [
    "",
    "A patient comes with a fever.",
    "I think that vitamin C and hepatitis B are unrelated.",
    "Let us see, step by step.",
    "Group B streptococci and type A blood were found.",
    "This is a question about E. coli.",
    "The pH is 7.4 (normal), i.e. no acidosis.",
]
# no text holds another, a letter alone, or a word of the sentences
POOL = [
    "Ferritin level",
    "Copper wire",
    "Zinc ointment",
    "Selenium shampoo",
    "Iodine solution",
    "Cobalt blue",
    "Nickel allergy",
    "Lead poisoning",
    "Gold salts",
    "Silver nitrate",
]


@st.composite
def questions(draw: st.DrawFn) -> tuple[dict[str, str], str]:
    """Options, and the letter of one of them."""
    texts = draw(st.permutations(POOL))[: draw(st.integers(2, 10))]
    options = dict(zip(string.ascii_uppercase, texts, strict=False))
    return options, draw(st.sampled_from(sorted(options)))


@settings(max_examples=300)
@given(questions(), st.sampled_from(TEMPLATES), st.sampled_from(NEUTRAL), st.data())
def test_every_template_is_read_in_any_surroundings(
    question: tuple[dict[str, str], str], template: str, before: str, data: st.DataObject
) -> None:
    options, letter = question
    # behind the statement, only what does not continue it
    after = data.draw(st.sampled_from(["", "\n\n" + NEUTRAL[3], "\n", "  \n\n", "\n\n" + NEUTRAL[6]]))
    assert extract(f"{before}\n\n{template.format(letter)}{after}", options).letter == letter


@settings(max_examples=150)
@given(
    questions(),
    st.sampled_from(["The answer is {}.", "Answer: {}", r"\boxed{{\text{{{}}}}}", "{}", "<answer>{}</answer>"]),
)
def test_a_text_answer_gives_its_letter(question: tuple[dict[str, str], str], template: str) -> None:
    options, letter = question
    read = extract(template.format(options[letter].lower()), options)
    assert (read.letter, read.how) == (letter, "text answer")


@settings(max_examples=150)
@given(questions(), st.sampled_from([*TEMPLATES, "The answer is text."]), st.data())
def test_permuting_options_permutes_the_answer(
    question: tuple[dict[str, str], str], template: str, data: st.DataObject
) -> None:
    options, letter = question
    order = data.draw(st.permutations(sorted(options)))
    renamed = dict(zip(sorted(options), order, strict=True))
    permuted = {renamed[key]: text for key, text in options.items()}
    for output, other in (
        (template.format(letter), template.format(renamed[letter])),
        (f"The answer is {options[letter]}.",) * 2,
    ):
        read = extract(output, options)
        again = extract(other, permuted)
        assert (again.letter, again.how) == (renamed.get(read.letter or ""), read.how)


@settings(max_examples=150)
@given(questions(), st.sampled_from(TEMPLATES), st.text(alphabet=" \t\n*_\u00a0\u200b", max_size=20))
def test_white_space_and_emphasis_behind_change_nothing(
    question: tuple[dict[str, str], str], template: str, tail: str
) -> None:
    options, letter = question
    assert extract(template.format(letter) + tail, options).letter == letter


PIECES = [
    *"ABCIabi()[]{}<>.,:;*#$\\|-'\"\n 0159%^_&",
    " answer",
    " is ",
    "\\boxed{",
    "<think>",
    "</think>",
    " and ",
    " not ",
    " correct",
    "option ",
    "iron",
    "iron deficiency",
    "&amp;",
    "_a_",
    "答案",
    "选",
    "\ue000",
    "½",
    "²",
    "β",
]
OUTPUTS = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
HOWS = {
    "boxed",
    "tag",
    "json",
    "answer phrase",
    "choice phrase",
    "named the answer",
    "lone letter",
    "text answer",
    "labelled line",
    "said correct",
    "conclusion",
}


@pytest.mark.slow
@settings(max_examples=400)
@given(
    OUTPUTS,
    st.dictionaries(st.sampled_from("ABCDEFGHIJ"), st.one_of(st.sampled_from(POOL), st.text(max_size=12), OUTPUTS)),
)
def test_total_and_consistent(output: str, options: dict[str, str]) -> None:
    read = extract(output, options)
    assert read.letter is None or read.letter in options
    assert (read.letter is not None) == (read.how in HOWS)
    assert len(read.quote) <= 160
    for right in options:
        marked = mark(output, options, right)
        assert (marked.letter, marked.how) == (read.letter, read.how)
        assert marked.is_right == (marked.step is not None)
        assert marked.is_right or not marked.is_right_strict
        assert (marked.step == "option") == (read.letter == right)
        assert (marked.step == "text") == (read.letter != right and contains(output, options, right))
        assert marked.is_right_strict == (marked.step == "option" or (marked.step == "text" and read.letter is None))


@settings(max_examples=400)
@given(OUTPUTS)
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert once == re.sub(r"\s+", " ", once).strip()


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(["iron", "deficiency", "anemia", "copper", "environment"]), max_size=12),
    st.lists(
        st.lists(st.sampled_from(["iron", "deficiency", "anemia", "copper"]), min_size=1, max_size=3),
        min_size=1,
        max_size=4,
    ),
)
def test_contains_equals_the_slow_form(words: list[str], texts: list[list[str]]) -> None:
    def holds(small: list[str], large: list[str]) -> bool:
        return any(large[i : i + len(small)] == small for i in range(len(large)))

    def without(large: list[str], small: list[str]) -> list[str]:
        for i in range(len(large)):
            if large[i : i + len(small)] == small:
                return [*large[:i], "|", *without(large[i + len(small) :], small)]
        return large

    options = dict(zip(string.ascii_uppercase, map(" ".join, texts), strict=False))
    rest = words
    longer = {" ".join(text) for text in texts if len(text) > len(texts[0]) and holds(texts[0], text)}
    for text in sorted(longer, key=lambda text: -len("".join(f" {word} " for word in text.split()))):
        rest = without(rest, text.split())
    assert contains(" ".join(words), options, "A") == holds(texts[0], rest)


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "piece",
    [
        "(",
        "{",
        "\\boxed{",
        "answer is ",
        "answer: ",
        "(A) and ",
        "A ",
        "\n#",
        "<think>",
        "&",
        "5*",
        "is correct. ",
        "best a ",
        "选",
        "but ",
        "actually, no, ",
        "it is ",
        "respuesta ",
        "答案不是",
        "是",
        "正解",
        "<think ",
        "<|channel|>",
        "<a-",
        "if ",
        "A) ",
        "not A, so ",
        "not A but ",
        "Aではなく",
        "that leaves ",
        "is better. ",
        "A: yes. ",
        "A ✅ ",
        "the diagnosis is ",
        "no, ",
    ],
)
def test_long_outputs_end_soon(piece: str) -> None:
    # a rule that went back over the text for every start would need minutes, and the time limit would end it
    output = piece * (40_000 // len(piece))
    # with an option that begins with a negation, whose place is looked for
    options = {**TEN, "K": "None of the above"}
    assert extract(output, options).letter in {None, *options}
    assert contains(output, options, "B") is False


def load_bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("real_answers", ROOT / "benches" / "real_answers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # a dataclass looks its module up
    sys.modules["real_answers"] = module
    spec.loader.exec_module(module)
    return module


# outputs with the same letter as the authors', measured by benches/real_answers.py
AGREEMENT = {
    "DeepSeek-Coder-V2.jsonl.gz": 711,
    "Meta-Llama-3_1-70B-Instruct.jsonl.gz": 715,
    "Mixtral-8x7B-Instruct-v0.1.jsonl.gz": 697,
    "Phi-3-mini-4k-instruct.json": 718,
    "c4ai-command-r-v01.parquet": 659,
    "gemini-1.5-flash-002.jsonl.gz": 719,
    "offdomain_DeepSeek-Coder-V2.jsonl.gz": 587,
}


@pytest.mark.skipif(not TRACES.exists(), reason=f"the data pack is not at {SHARED}")
@pytest.mark.parametrize(
    "file", [pytest.param(one, marks=pytest.mark.exhaustive if i > 1 else ()) for i, one in enumerate(AGREEMENT)]
)
def test_real_outputs_agree_or_the_difference_is_explained(file: str) -> None:
    bench = load_bench()
    rows = bench.read_rows(TRACES / file)
    kinds = [bench.disagreement(row) for row in rows]
    assert kinds.count(None) >= AGREEMENT[file]
    assert bench.UNEXPLAINED not in kinds
    # where both read a letter and differ, ours is the right one at least as often
    both = [row for row, kind in zip(rows, kinds, strict=True) if kind and kind.startswith("both")]
    assert sum(row.read.letter == row.gold for row in both) >= sum(row.pred == row.gold for row in both)
