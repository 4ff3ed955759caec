"""Wordings that were written before the rules of scoring version 2, and not looked at while those were written.

With the options of ``test_answers.FOUR`` or ``NONE_TOO``. What is still missed is listed beside the test that reads
them, so that the share stands as it was measured.
"""

from __future__ import annotations

NONE_TOO = {"A": "Aspirin", "B": "Not indicated", "C": "Warfarin", "D": "No further treatment", "E": "None of the above"}

# corrections and rejected thoughts: the last word is the answer
CORRECTIONS: list[tuple[str, str | None]] = [
    ("Answer: A. No, wait: C.", "C"),
    ("The answer is A. Oops, that should be C.", "C"),
    ("Final answer: A\n\nScratch that, C.", "C"),
    ("The answer is B. My mistake, it's D.", "D"),
    ("I'd say the answer is A; on second thought, C.", "C"),
    ("The answer is A. Let me correct myself: it should be C.", "C"),
    ("The answer is A. Hold on, that is wrong. It must be C.", "C"),
    ("One could think the answer is A, but in fact it is C.", "C"),
    ("The answer would be A in an adult; in this child, however, it is C.", "C"),
    ("The answer appears to be A at first glance, yet I believe it is C.", "C"),
    ("Answer: A... hmm, no, I meant C.", "C"),
    ("Some textbooks say the answer is A. That is outdated; it is C.", "C"),
    ("The answer is A. Correction: C.", "C"),
    ("The answer is A, sorry, C.", "C"),
    ("The answer is A. Actually C.", "C"),
    ("Had the ferritin been low, the answer would have been B, but it is normal, so A.", "A"),
    ("The obvious answer is A. But C is better.", "C"),
    ("The answer is A. I take that back. It is C.", "C"),
    # and what corrects nothing
    ("The answer is C. Is it not A? No, B12 is low.", "C"),
    ("The answer is C. If the ferritin were low, it would be B.", "C"),
    ("The answer is C. A is wrong, B is wrong; D is wrong.", "C"),
    ("The answer is C. Actually, A is tempting, but A is wrong.", "C"),
    ("The answer is C.\nA. Thalassemia: no.\nB. Iron deficiency anemia: no.\nD. Lead poisoning: no.", "C"),
    ("The answer is (C), but one could argue for (B).", "C"),
    ("The answer is C. Many students choose B, but B needs a low ferritin.", "C"),
]

CHINESE: list[tuple[str, str | None]] = [
    ("综合分析，应该选择B。", "B"),
    ("本题应选择选项B。", "B"),
    ("所以B项符合题意。", "B"),
    ("因此B是正确的。", "B"),
    ("B选项是正确答案。", "B"),
    ("正确答案不是C，应为B。", "B"),
    ("答案是A。不对，应该是B。", "B"),
    ("最有可能的诊断为B。", "B"),
    ("最合适的选项是：B", "B"),
    ("该患者最可能的诊断是缺铁，答案选B", "B"),
    ("我的答案是B", "B"),
    ("选项B最恰当。", "B"),
    ("答案並非A，而是B。", "B"),
    ("正確答案：B", "B"),
    ("参考答案：B", "B"),
    ("B项错误。", None),
    ("不能选B。", None),
    ("答案不是B。", None),
]

LANGUAGES: list[tuple[str, str | None]] = [
    ("Die Antwort lautet: B", "B"),
    ("Die richtige Antwort ist (B).", "B"),
    ("Richtig ist Antwort B.", "B"),
    ("Daher ist B die richtige Antwort.", "B"),
    ("**Antwort:** B. Iron deficiency anemia", "B"),
    ("Die Antwort ist nicht A, sondern B.", "B"),
    ("La respuesta correcta es la opción B.", "B"),
    ("La respuesta es: B", "B"),
    ("Por lo tanto, la opción correcta es la B.", "B"),
    ("Respuesta final: **B**", "B"),
    ("La respuesta no es A, sino B.", "B"),
    ("La bonne réponse est B.", "B"),
    ("La réponse correcte est l'option B.", "B"),
    ("Réponse finale : (B)", "B"),
    ("La réponse n'est pas A mais B.", "B"),
    ("A resposta correta é a alternativa B.", "B"),
    ("Resposta final: B", "B"),
    ("Portanto, a alternativa correta é B.", "B"),
    ("A resposta não é A, mas sim B.", "B"),
    ("정답은 B입니다.", "B"),
    ("따라서 정답: (B)", "B"),
    ("답은 B이다.", "B"),
    ("정답은 A가 아니라 B입니다.", "B"),
    ("正解はBです。", "B"),
    ("したがって、答えは (B) です。", "B"),
    ("最終的な答え: B", "B"),
    ("答えはAではなくBです。", "B"),
    ("La risposta corretta è B.", "B"),
    ("Правильный ответ: B", "B"),
    ("Đáp án: B", "B"),
    ("Đáp án đúng là B.", "B"),
    ("Die Antwort ist unklar.", None),
    ("Die Antwort ist nicht B.", None),
    ("La respuesta no es B.", None),
    ("La réponse n'est pas B.", None),
    ("A resposta não é B.", None),
    ("정답은 B가 아닙니다.", None),
    ("答えはBではありません。", None),
]

# with `NONE_TOO`
NEGATIONS: list[tuple[str, str | None]] = [
    ("The correct answer is: None of the above.", "E"),
    ("The answer is none of the above, since all are contraindicated.", "E"),
    ("The best answer is none of the above options.", "E"),
    ("I would choose none of the above.", "E"),
    ("None of the above is the correct answer.", "E"),
    ("Answer: not indicated", "B"),
    ("The answer is not indicated.", "B"),
    ("The correct choice is no further treatment.", "D"),
    ("The answer is **No further treatment**, because she is well.", "D"),
    ("The answer is not A.", None),
    ("The answer is not aspirin.", None),
    ("The answer is not A but C.", "C"),
    ("The answer is neither A nor C.", None),
    ("The answer is not warfarin, it is aspirin.", "A"),
]

# thinking that does not end, and thinking that is followed by its answer
CUT = [
    "<unused94>thought\nThe ferritin is low. The answer is A",
    "<|channel>thought\nSo the answer is A. Let me check",
    "<seed:think>The answer is A. Let me check",
    "<|channel|>analysis<|message|>The answer is A. Hmm",
    "<|START_THINKING|>The answer is A. Hmm",
    "<reason>\nThe answer is A. Hmm",
    "<thought>The answer is A. Hmm",
    "<thinking>The answer is A. Hmm",
    "<longcat_think>The answer is A. Hmm",
    "<|begin_of_thought|>The answer is A. Hmm",
    "<|thinking|>The answer is A. Hmm",
    "<mm:think>The answer is A. Hmm",
    "<inner_monologue>The answer is A. Hmm",
    "[THINK]The answer is A. Hmm",
    "◁think▷The answer is A. Hmm",
]
CLOSED = [
    "<unused94>thought\nIt may be thalassemia. The answer is A.<unused95>The answer is B.",
    "<|channel>thought\nThalassemia? The answer is A.\n<channel|>The answer is B.",
    "<seed:think>thalassemia, the answer is A</seed:think>The answer is B.",
    "<|channel|>analysis<|message|>thalassemia? A.<|end|><|start|>assistant<|channel|>final<|message|>**B**<|return|>",
    "<|START_THINKING|>thalassemia? the answer is A<|END_THINKING|><|START_RESPONSE|>Answer: B<|END_RESPONSE|>",
    "<reason>thalassemia, the answer is A</reason>\n<answer>B</answer>",
    "<reasoning>the answer is A: thalassemia</reasoning>Answer: B",
    "<thought>thalassemia: the answer is A</thought>B",
    "<thinking>thalassemia, the answer is A</thinking><|begin_of_box|>B<|end_of_box|>",
    "thalassemia, so the answer is A</seed:think>The answer is B.",
    "thalassemia, so the answer is A<unused95>The answer is B.",
    "analysisThalassemia? The answer is A.assistantfinalThe answer is B.",
]
