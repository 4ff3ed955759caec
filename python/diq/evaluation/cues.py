"""The words and shapes by which an output says what it chooses, in the languages that are read: patterns alone.

They are matched against `wording.plain_text`; what each of them does to a mark is in `answers`.
"""

from __future__ import annotations

import re

from diq.evaluation.wording import BOX_OPEN

NONE = re.compile(
    r"(?:none|neither)(?: of (?:the|these|those|them))?(?: (?:above|options?|choices?|answers?|alternatives?"
    r"|listed|given|"
    r"other|others|provided|mentioned|statements?))*|no (?:correct|right) (?:answer|option)"
    r"|(?:以 上 |上 述 )?(?:(?:选 项|答 案) )?(?:都|皆|均|全) (?:不 是|非|不 对|不 正 确|不 选|错 误|错)"
    r"|(?:以 上 |上 述 )?(?:都 )?没 有(?: 正 确)?(?: 答 案)?|无 正 确 (?:选 项|答 案)"
)


# a yes or no that a stop sets off
SET_OFF = re.compile(r"\W*(?:no|not|never|none|yes|nein|ja|non|não|nope)\s*(?:[,;:!]|\.(?=\s)| - )", re.IGNORECASE)
TURN = re.compile(
    r"<\|(?:im_end|eot_id|endoftext|end|end_of_text|return|eom_id|END_RESPONSE|END_OF_TURN_TOKEN)\|>|<end_of_turn>|</s>"
    r"|^[ \t]*(?:#+ *)?(?:question|problem|q|user|human|instruction)(?: ?\d{1,3})?(?: ?:|[ \t]*$)"
    r"|^[^\n]{0,60}\b(?:summari[sz]|combin|compil)(?:e|ing)\b[^\n]{0,30}\banswers\b",
    re.IGNORECASE | re.MULTILINE,
)
LINE_MARKS = re.compile(r"^ ?(?:[#>•●▪◦✓✔✅➡→]+ ?|[-+] )+|\|", re.MULTILINE)


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


COMMON = _set(
    "a above all always an and answer any are as at be both by can correct false following for from if in is it many "
    "maybe more never neither no none nor not of on one only or other some than that the them there these this those "
    "to true two was with yes"
)
# words that may follow a letter without a stop between: the letter is the answer, and what follows is about it
CONNECTIVES = _set(
    "and as at because by but due follows following for from given however in instead is not on or over per rather "
    "since so that then therefore thus under using when where which while who with zu"
)
SENTENCE_END = re.compile(r"[.!?](?=[\s\"')\]\ue001]|$)|[。！？]|\n")
LETTER_WORD = r"(?:option|choice|letter|answer|statement|response|alternative)s?"
VERB = r"(?:is|was|are|be|becomes?|remains|seems|appears)"
FITTING = (
    r"(?:correct|right|best|closest|nearest|(?:most |least |only )?(?:appropriate|likely|accurate|suitable|relevant|"
    r"probable|plausible|reasonable|logical|consistent|fitting|effective|important|common))"
)
# what a label is followed by where it is the answer; other languages' words for right
FOREIGN_RIGHT = r"(?:richtig|korrekt|zutreffend|corre[ct]?t[aeo]?|cert[ao]|exacte?|esatt[ao]|vraie?)"
ACCEPTED = rf"(?:correct|right|yes|true|accepted|most likely|ja|s[íi]|oui|{FOREIGN_RIGHT})"
# other languages have the same cues: a noun, then a verb, a colon, a line end or a letter behind it
FOREIGN_VERB = r"(?:ist|lautet|wäre|es|ser[íi]a|est|serait|é|seria|è|sarebbe|jest|là)"
FOREIGN_LETTER_WORD = (
    r"(?:opci[óo]n|op[çc][ãa]o|alternativa|opzione|letra|lettre|lettera|buchstabe|option|proposition|choix|antwort|"
    r"respuesta|r[ée]ponse|resposta|risposta)"
)
# without a space between the word and the letter
JOINED_WORD = r"(?:选项|選項|選択肢|선택지|보기)"
# one letter and nothing that goes on with it, where no stop stands between words
ALONE = r"(?=[\s(\[\"]{0,2}(?:选项|選択肢)?(?-i:[A-Z])(?![A-Za-z0-9]))"
FOREIGN_ANSWER = (
    r"\b(?:antwort|lösung|gabarito|respuesta|r[ée]ponse|resposta|risposta|antwoord|odpowied[źz]|ответ|đáp án"
    r"|jawaban|cevap)\b(?:"
    rf"[\s\"'()]{{0,3}}[:=]|[^.:;?!\n{BOX_OPEN}]{{0,60}}?(?:\b{FOREIGN_VERB}\b|:)|[^\w\n]{{0,3}}\n"
    r"|\.? ?(?=(?-i:\(?[A-Z]\)?(?:[.,;!?](?: |$)|[ \t]*$)))"
    r")"
    r"|(?:정답|최종 ?답안?|(?<![가-힣])답안?)(?:[은는이:=\s]{0,3})|(?:答え|正解|解答|回答|正答)(?:[はが:=\s]{0,3})"
)
FOREIGN_CHOICE = (
    r"\b(?:(?:richtige|korrekte|beste) (?:option|wahl|auswahl)|(?:bonne|meilleure) (?:option|proposition)|"
    r"(?:bon|meilleur) choix|(?:opci[óo]n|op[çc][ãa]o|alternativa|opzione|option|proposition) "
    r"(?:corre[ct]?t[aeo]?|cert[ao]|(?:m[áa]s|mais|più|la plus|que mejor|que melhor|qui) \w+))\b"
    rf"[^.:;?!\n{BOX_OPEN}]{{0,60}}?(?:\b{FOREIGN_VERB}\b|:)"
    r"|\b(?:richtig|korrekt|zutreffend|am (?:wahrscheinlichsten|ehesten|besten)) (?:ist|wäre|trifft|passt)\b"
    r"|\b(?:corre[ct]?t[ao]|cert[ao]) (?:es|seria|é|è)\b"
    r"|\b(?:ich (?:wähle|nehme|würde mich für|entscheide mich für)|(?:yo )?(?:elijo|escojo)|je choisis"
    r"|(?:eu )?escolho|scelgo)\b"
    r"|(?:올바른|옳은|맞는|적절한) (?:선택지|보기|것)[은는:\s]{1,3}"
    r"|(?:正しい|適切な)(?:選択肢|もの)[は:\s]{1,3}"
)
CHINESE_CHOICE = (
    r"(?:(?:正确|正確|最佳|最终|参考)?答案|正[确確]的?选项|正[确確]的是|最(?:佳|合适|恰当|适当)的?选项|"
    r"[应應](?:[该該当])?(?:选择?|選擇?|是|为|為)|故选择?|改选|选择|選擇|选(?!项|择)|選(?!項|擇)|"
    r"我(?:认为|觉得|判断)(?:答案|应该)?是|即(?=选项))"
    r"(?:[^。\nA-Za-z:]{0,12}?(?:是|为|為|选项|選項|选择|選擇|选|選))?"
)
STANDS = (
    # a letter alone where a correction gives one: what goes on is another sentence, or says that it is right
    r"(?=[\s\"'(\[:]{0,3}(?:(?:option|choice|answer) )?(?-i:[\"'(\[]?[A-Z])[)\]\"']{0,2}"
    r"(?:\s?[.,;:!](?!\w)|\s*$|\s+(?:because|since|as|rather|instead|not)\b|\s+[-(]|\s+is (?:\w+ )?(?:correct"
    r"|right|best)\b))"
)
IT_IS = (
    r"(?:(?:it|that|this)(?:'s| is| was| should be| must be| would be| has to be| should have been)|(?:should|must) be)"
)
CORRECTION = (
    # "sorry, I meant C", "on reflection it should be C", "scratch that, C"
    r"(?:\b(?:correction|i meant?|make (?:that|it)|(?:scratch|strike) that|i stand corrected|"
    r"(?:up)?on (?:second thoughts?|(?:\w+ )?(?:reflection|inspection|look|reading|review|consideration"
    r"|reconsideration))|"
    r"edit|revised(?: to| answer)?|corrected(?: to)?|my (?:mistake|bad|error)|i take (?:that|it) back|"
    r"(?:no|nope|wait|sorry|actually|oops|hmm+|rather|apologies)(?:[\s,.!-]{1,3}(?:no|nope|wait|sorry|actually"
    r"|rather)){1,3})"
    r"\b[\s,.:;!-]{0,4}"
    r"|\b(?:actually|sorry|oops|apologies)\b[ ,:-]{0,3})"
    rf"(?:(?:so|then|i (?:now )?(?:think|believe)(?: that)?) )?(?:{IT_IS}|i meant?|the answer is)?{STANDS}"
    # "no, it is C", "they are wrong; it is C"
    r"|\b(?:no|wait|hmm+|hold on|wrong|incorrect|mistaken|outdated|false|not (?:right|correct|true|so|it)"
    r"|correct myself)\b"
    r"[\s,.:;!-]{1,4}(?:(?:so|but|rather|actually|instead|i (?:now )?(?:think|believe)(?: that)?),? )?"
    rf"{IT_IS}{STANDS}"
    # "may be A, but I think it's C"; what is said under a condition is none
    r"|\b(?:but|however|yet)\b(?:(?!\b(?:if|unless|when|would|could|might|may|were|argue|choose)\b)[^.;:?!\n]){0,80}?"
    rf"(?:\b{IT_IS}|\b(?:points?|leads?)(?: me| us)? to|\bso|\btherefore|\bhence|\bin fact|\bi (?:think"
    rf"|believe|choose|pick)|"
    r"\bthe (?:\w+ )?(?:likely|best|correct|right|likeliest)(?: one| option| choice| diagnosis| answer)? is)"
    rf"(?: (?:actually|really|likely|probably|rather|still))?{STANDS}"
    r"|\b(?:but|however|yet),? (?=(?:option )?[(\[]?(?-i:[A-Z])[)\]]? is (?:the )?(?:\w+ )?(?:correct|right"
    r"|best|better|answer)\b"
    r"\s*(?:[.,;!]|$|answer|option|choice|one|because|since))"
    # "it must be C" as a sentence; "this is C" may speak of a part of it
    rf"|(?:^|[.!?] )(?:(?:so|yes|therefore|thus|hence|then|now),? )?(?!(?:this|that)(?:'s| is| was)\b){IT_IS}{STANDS}"
    # "not A but B" without a noun, "no es A, es B"
    r"|(?:\b(?:not|cannot be|nicht|pas|no(?: es| era)?|non(?: è)?|não(?: é)?)|n't(?: be)?) "
    r"(?:(?:die|la|le|a|de|di|option|choice) ){0,2}"
    r"(?-i:\(?[A-Z]\)?)[\s,;]{1,3}(?:but(?: rather)?|sondern|vielmehr|sino|mais|mas(?: sim)?|e sim|bensì|ma|es(?: ist)?"
    rf"|it(?:'s| is)|c'est|é|è|(?:so|therefore|thus|hence)(?: {IT_IS})?)\b(?: (?:die|la|le|a|de|di)\b(?=\W))?{STANDS}"
    # the same where the rejected letter comes first
    r"|(?<![A-Za-z0-9])(?-i:[A-Z])[)\]]?\s?(?:(?:では|じゃ)なく(?:て)?|[이가은는]? ?아니라"
    r"|(?:选?项|選項)?(?:不是|不对|不對|不正确|是?错误?的?),?(?:[应應][该該当]?)?[是选選])"
    rf"[\s,、]{{0,2}}{ALONE}"
    # and in Chinese
    r"|(?:更正|不对|不對|不,|等等|等一下|错了|抱歉|其实|实际上|但我?(?:认为|觉得)?|而)[,。!:\s]{0,3}(?:正确)?(?:答案)?"
    r"(?:[应應][该該当]?|更?可能)?(?:[是为為选選]|:)(?=[\s(\[\"]{0,2}(?:选项)?(?-i:[A-Z]))"
    r"|但(?=(?:选项)?(?-i:[A-Z])(?:选?项)?(?:更|才|最))"
)
CUE = re.compile(
    rf"(?P<boxed>{BOX_OPEN})"
    r"|(?P<tag><\s*(?:final[\s_-]*)?(?:answer|ans|choice|option)\s*>|\[\s*(?:final[\s_-]*)?answer\s*\])"
    r"|(?P<json>[\"'](?:[a-z]{1,12}[\s_-]?){0,3}(?:answer|choice|option"
    r"|prediction)(?:[\s_-]?[a-z]{1,12}){0,2}[\"']\s*:)"
    r"|(?P<answer>\b(?:answers?|ans)\b(?:"
    r"(?: choice| option| letter| key)?\.?[\s\"'()]{0,3}(?:[:=]|-(?= ))"
    # in "one might answer A, but C is right" the verb is another's
    rf"|(?:(?!, but \(?[A-Z]\)? is\b)[^.:;?!\n{BOX_OPEN}]){{0,80}}?\b{VERB}\b"
    r"|'s\b|[^\w\n]{0,3}\n"
    r"|\.? ?(?=(?-i:\(?[A-Z]\)?(?:[.,;!?](?: |$)|[ \t]*$)))"
    rf")|{FOREIGN_ANSWER})"
    rf"|(?P<choice>\b(?:{FITTING}|final|chosen|selected|my|our|only)\s+(?:possible |matching |answer )?"
    r"(?:option|choice|response|selection|alternative|match|letter|pick)s?\b"
    rf"[^.:;?!\n{BOX_OPEN}]{{0,160}}?(?:\b{VERB}\b|[:=])"
    rf"|\b(?:leaves|points? to|{FOREIGN_RIGHT}\s?:){STANDS}"
    rf"|{FOREIGN_CHOICE}"
    r"|\b(?:choose|select|pick|chose|selected|choosing|selecting|picking|opt for|settle on|answer with|"
    r"go(?:ing)? with|vote for|(?:i|we)(?:'d| would|'ll| will)? (?:say|guess|lean (?:towards?|to))|(?:my|best) guess is"
    r"|(?:i am|i'm) leaning (?:towards?|to)|(?:are|am|is|we're|i'm) left with"
    r"|(?:that|this|which|it|and) leaves(?: us| me)?(?: only)?(?: with)?)\b"
    r"|\b(?:correction|i mean|make that|(?:wait|actually|sorry|no),? it(?:'s| is| should be| must be))\b"
    rf"|{CHINESE_CHOICE})"
    rf"|(?P<correction>{CORRECTION})",
    re.IGNORECASE | re.MULTILINE,
)
FILLERS = re.compile(
    rf"(?:[\s:=\"'()\[\]<>#,{BOX_OPEN}→➡-]"
    rf"|(?:the )?(?:(?:correct|right|best|final) )?\b{LETTER_WORD}\b"
    r"|\b(?:is|are|be|most|likely|probably|clearly|definitely|indeed|therefore|thus|actually|simply|only|still|now|"
    r"either|both|again|given by|represented by|as follows|a combination of|would|should|must)\b"
    r"|选项|選項|是|为|為|应该|應該|项|："
    rf"|(?:(?:la|el|le|die|der|das|a|o) |l')?\b{FOREIGN_LETTER_WORD}\b"
    r"|\b(?:donc|also|daher|somit|logo|portanto|entonces)\b"
    r"|\b(?:la|el|le|die|a) (?=(?-i:\(?[A-Z](?:[.,;!)]|\s*$))))*",
    re.IGNORECASE,
)
NEGATION = re.compile(
    r"\b(?:not|never|cannot|neither|nor|unlikely|unclear|none|nicht|keine?[nmrs]?|unklar|"
    r"no(?= (?:es|son|era|ser[íi]a)\b)|pas|n'est|não|nao|non(?= [èe]\b)|не)\b|n't\b|不|非",
    re.IGNORECASE,
)
BEFORE_NEGATED = re.compile(
    r"\b(?:incorrect|wrong|not|never|if|suppose|assume|assuming|whether|unless|had)\s+(?:\w+\s+){0,2}$"
    # what others say is not what this output says
    r"|\b(?:many|some|others|students|people|textbooks?|clinicians|beginners)\s+(?:\w+\s+){0,3}$"
    r"|不(?:能|[应應]|[该該]|可|会)?$",
    re.IGNORECASE,
)
UNREAL = re.compile(r"\b(?:if (?!(?:i|we|you|one|forced|pressed)\b)|had |were )[^.!?\n]*$", re.IGNORECASE)
INSTEAD = re.compile(
    r"\bbut(?: rather)?\b|\brather\b,?|[;,]\s*(?:it(?:'s| is)|es(?: ist)?|c'est|é|è|e sim)\b|\binstead\b:?|"
    r"[;,]\s*(?:so|therefore|thus|hence)\b,?(?=\W{1,2}(?:(?:option|choice) )?(?-i:[A-Z])\W{0,2}(?:[.!]|$))|"
    r"\b(?:sondern|vielmehr|sino|mais|mas(?: sim)?|bensì)\b|而是|[应應][该該当]?[是为為选選]",
    re.IGNORECASE,
)
# "B가 아니라 C", "BではなくC": the rejected letter comes first
NOT_BUT = re.compile(r"\W{0,3}[A-Z]\W{0,2}(?:[이가은는]? ?아니라|(?:では|じゃ)なく(?:て)?)[\s,、]{0,2}")
LATER_VERB = re.compile(rf"\b{VERB}\b|:", re.IGNORECASE)
AND = re.compile(
    r"(?:[\s,;/&+、和或与及]|[)\]](?=[\s,;/&+(\[]))*(?:\b(?:and|or|as well as|along with|versus|vs)\b\W{0,3})*"
    rf"(?:{LETTER_WORD} )?[(\[\"']?(?P<letter>[A-Z])(?![\w'-])"
    rf"(?!\W{{0,3}}(?:{VERB}|would|should|could|can|can't|cannot|does|do|has|have|describes|refers|represents)\b)"
)
OTHER_CLAUSE = re.compile(
    rf"{SENTENCE_END.pattern}|\b(?:since|because|as|while|whereas|but|not|unlike|rather|although|however|than)\b",
    re.IGNORECASE,
)
AND_BRACKETED = re.compile(r"\b(?:and|or)\s+(?:option )?[(\[](?P<letter>[A-Z])[)\]]")
ADVERB = r"(?:(?:also|indeed|clearly|thus|therefore|most likely|likely|probably|definitely|actually|then|hence) )?"
NAMED = re.compile(
    rf"(?:\b(?:{VERB}|being|as)\s+{ADVERB}|(?<=[A-Z)\]] ))(?:the|our|my) "
    r"(?:(?:only|single|most|best|correct|right|final|likely|appropriate|accurate|closest|possible|suitable|logical|"
    r"reasonable|plausible|probable) ){0,4}(?:answer|option|choice|response|pick)s?\b(?! (?:if|choice))"
    r"|\b(?:ist|es|est|é|è) (?:die|la|le|a|l') ?(?:\w+ ){0,2}(?:antwort|respuesta|r[ée]ponse|resposta|risposta)\b"
    r"|(?<=[A-Z)\]] )(?:die|la|a) (?:\w+ )?(?:antwort|respuesta|r[ée]ponse|resposta|risposta)\b"
    r"|[是为](?:正[确確]|最佳)的?(?:答案|选项)|[이가] 정답|が(?:正解|正しい)",
    re.IGNORECASE,
)
SAID_CORRECT = re.compile(
    rf"(?:\b{VERB}\s+{ADVERB}|[:(-] ?)(?:correct|right)\b"
    r"(?=\s*(?:[.,;:!)\]✓✔✅]|$|(?:because|since|as|and)\b))|是?正确(?!的?(?:答案|选项))|最?符合(?:题意)?|最(?:恰当|合适|适当)"
    # a label and no more: "A) incorrect. B) correct.", "B: yes."
    rf"|(?:(?<=\b(?-i:[A-Z]))(?:[).:,\]]{{1,2}} ?|  ?)|: ?){ACCEPTED}\b(?=\s*(?:[.,;:!)]|$))|(?<=[\w).:]) ?[✓✔✅]"
    # which of two
    rf"|\b{VERB} {ADVERB}(?:the )?(?:better|more (?:likely|appropriate|plausible|suitable|consistent|fitting)|likelier"
    r"|preferable)\b(?=\s*(?:[.,;!]|$|(?:choice|option|answer|one|fit|because|since|here)\b"
    r"|than (?:option )?\(?(?-i:[A-Z])\b))"
    r"|\b(?:remains|fits best|trifft(?: \w+)? zu)\b(?=\s*(?:[.,;!]|$))|(?<=\b(?-i:[A-Z])) it is(?=[.!]|$)"
    r"|(?<=(?-i:[A-Z]))(?:选?项|選項)?[对對](?![于於应應照比])|[이가] (?:가장 )?(?:맞|옳|올바|적절|적합)"
    r"|[がは](?:最も?|より)?(?:適切|妥当|適当|最適|正解|正しい|考えられる)"
    rf"|(?:\b(?:ist|es|est|está|é|è)|(?<=[^A-Za-z](?-i:[A-Z]))) {FOREIGN_RIGHT}\b",
    re.IGNORECASE | re.MULTILINE,
)
MENTION = re.compile(
    rf"(?:\b(?i:{LETTER_WORD}|{FOREIGN_LETTER_WORD}) [\"'(\[]?|{JOINED_WORD} ?)(?P<named>[A-Z])(?![A-Za-z0-9_'-])"
    r"|(?<![A-Za-z0-9])(?P<chinese>[A-Z])(?=选?项|選?項)"
    r"|[(\[](?P<bracketed>[A-Z])[)\]]"
    r"|^ ?(?P<label>[A-Z])[.):] ",
    re.MULTILINE,
)
BARE_END = re.compile(
    r"(?:^|[,、;:(\"'\n❌✗✘]|\b(?:therefore|thus|so|hence|that|then|and|only|conclude|but|means|leaves|leaving|"
    r"identify|makes|making|believe|think|say|suspect|"
    r"ist|es|est|la|donc|logo|portanto|daher|somit|entonces|quindi)"
    r"\b|[고며]|지만|因此|所以|故|综上|따라서|그러므로|즉|よって|したがって)\W*(?P<letter>[A-Z])[\W]*$",
    re.IGNORECASE,
)
IS_WRONG = re.compile(
    rf"\W{{0,3}}{VERB}\s+(?:not|incorrect|wrong|false)\b"
    rf"|\W{{0,3}}{FOREIGN_VERB} (?:nicht|falsch|incorrect[ao]?|fausse?)\b"
    r"|[)\]\"']?\s?(?:[이가은는]? ?아[니닙]|(?:では|じゃ)(?:な|あり)|(?:选项|選項|项)?(?:是?错|是?錯|不[正对對是符]))",
    re.IGNORECASE,
)
# what a label rejects: "A) incorrect", "A: no."
REJECTS = re.compile(
    r"\W{0,3}(?:(?:is )?(?:incorrect|wrong|false|untrue|inaccurate|unlikely|excluded|eliminated|rejected|ruled out)\b"
    r"|(?:no|nope|nein|non|não)\b(?=\s*(?:[.,;:!-]|$))"
    r"|(?:is )?(?:not\b(?! only)|(?:less|least) \w+)|out\b(?=\s*(?:[.,;]|$))"
    r"|(?:falsch|incorrect[oa]s?|incorret[oa]|errad[oa]|faux|fausse|sbagliat[oa])\b"
    r"|[❌✗✘×]|(?:是?错|是?錯|不[正对對是符]|誤り|틀))",
    re.IGNORECASE,
)
# and what it accepts, which is for those to read who look whether another is, too
ACCEPTS = re.compile(rf"\W{{0,3}}(?:(?:is )?{ACCEPTED}\b(?=\s*(?:[.,;:!)]|$))|正[确確]|[对對])", re.IGNORECASE)
VERB_FIRST = re.compile(rf"[)\]]? (?:{VERB}|can|could|does|has|would)\b")
JOINED_BEFORE = re.compile(
    rf"\b(?P<letter>[A-Z])[)\]\"']?\s*(?:,|and|or|&)\s*(?:and |or )?(?:{LETTER_WORD} ?)?[(\[\"']?$"
)
# several letters without a space between: "(BD)", "(A-E)"
RUN = re.compile(r"[A-Z](?:-?[A-Z]){1,9}(?=[)\].\s,\ue001]|$)")
ROMAN = re.compile(r"[\s,]*(?:\b(?:and|or)\b|&)?\s*(?:II|III|IV|VI{0,3}|IX)\b")
TEXT_FILLERS = re.compile(
    r"(?:[\s:=\"'(\[<>#,\ue000-]|\b(?:most likely|likely|probably|clearly|definitely|therefore|thus|"
    r"approximately|about|roughly|around|that|to|option|choice)\b)*",
    re.IGNORECASE,
)
CLAUSE_END = re.compile(r"[,;:(\n\"\ue001]|[.!?](?=\s|$)|[。！？]| - |</")
CONCLUDING = re.compile(
    r"\b(?:therefore|thus|hence|so|consequently|in conclusion|conclude|in summary|overall|based on|"
    r"given (?:this|these|the|that)|as a result|best|closest|most likely|most appropriate|correct)\b|因此|所以|综上",
    re.IGNORECASE,
)
LEAD = re.compile(
    rf"\b(?:{FITTING}\s+(?:\w[\w'-]*\s+){{1,8}}?{VERB}"
    r"|(?:the|this|her|his|their) (?:\w+ )?(?:diagnosis|cause|culprit|condition|disease|disorder|organism|pathogen"
    rf"|drug|mechanism|next step|treatment of choice) {VERB}"
    rf"|patient's (?:\w+ )?(?:diagnosis|condition|disease|disorder) {VERB}|this is a case of"
    r"|it(?:'s| is| must be| should be| would be))\b"
    r"|\b(?:diagnosis|conclusion|solution|decision) ?:"
    r"|最(?:有)?可能的?[^。\nA-Za-z:,]{0,12}?(?:是|为|為|:)",
    re.IGNORECASE,
)
REJECTED = re.compile(
    r"\b(?:not|incorrect|wrong|false|rules? out|ruled out|eliminat\w+|exclud\w+|unlikely|cannot|except|neither|if|"
    r"could)\b|n't\b",
    re.IGNORECASE,
)
BRACKETED_END = re.compile(r"[(\[](?:option )?[A-Z][)\]]\W*$", re.IGNORECASE)
LONE = re.compile(
    rf"\W*(?:(?:{LETTER_WORD}|{FOREIGN_LETTER_WORD}|{JOINED_WORD})\W{{0,3}})?(?P<letter>[A-Za-z])\W*", re.IGNORECASE
)
LABELLED = re.compile(
    rf"\W{{0,3}}(?:(?:{LETTER_WORD}|{FOREIGN_LETTER_WORD}) )?(?P<letter>[A-Z])(?:\s?[.):\]]|,| -) ?(?=\S)",
    re.IGNORECASE,
)
