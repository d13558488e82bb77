"""C-Eval (Huang et al. 2023): 52 subjects from middle school to professional examinations, four choices."""

from __future__ import annotations

from collections.abc import Iterator

from hanlin.common.messages import Text
from hanlin.evaluation.benchmarks.base import CLOZE, LETTERED, Benchmark, register_benchmark
from hanlin.evaluation.benchmarks.exams import ASKED, opencompass, read_subject
from hanlin.evaluation.benchmarks.folder import Folder
from hanlin.evaluation.benchmarks.items import Item, Prompt

# Their order and Chinese names are those of the authors' subject_mapping.json; lm-eval and OpenCompass use
# the same names.
SUBJECTS = {
    "computer_network": "计算机网络",
    "operating_system": "操作系统",
    "computer_architecture": "计算机组成",
    "college_programming": "大学编程",
    "college_physics": "大学物理",
    "college_chemistry": "大学化学",
    "advanced_mathematics": "高等数学",
    "probability_and_statistics": "概率统计",
    "discrete_mathematics": "离散数学",
    "electrical_engineer": "注册电气工程师",
    "metrology_engineer": "注册计量师",
    "high_school_mathematics": "高中数学",
    "high_school_physics": "高中物理",
    "high_school_chemistry": "高中化学",
    "high_school_biology": "高中生物",
    "middle_school_mathematics": "初中数学",
    "middle_school_biology": "初中生物",
    "middle_school_physics": "初中物理",
    "middle_school_chemistry": "初中化学",
    "veterinary_medicine": "兽医学",
    "college_economics": "大学经济学",
    "business_administration": "工商管理",
    "marxism": "马克思主义基本原理",
    "mao_zedong_thought": "毛泽东思想和中国特色社会主义理论体系概论",
    "education_science": "教育学",
    "teacher_qualification": "教师资格",
    "high_school_politics": "高中政治",
    "high_school_geography": "高中地理",
    "middle_school_politics": "初中政治",
    "middle_school_geography": "初中地理",
    "modern_chinese_history": "近代史纲要",
    "ideological_and_moral_cultivation": "思想道德修养与法律基础",
    "logic": "逻辑学",
    "law": "法学",
    "chinese_language_and_literature": "中国语言文学",
    "art_studies": "艺术学",
    "professional_tour_guide": "导游资格",
    "legal_professional": "法律职业资格",
    "high_school_chinese": "高中语文",
    "high_school_history": "高中历史",
    "middle_school_history": "初中历史",
    "civil_servant": "公务员",
    "sports_science": "体育学",
    "plant_protection": "植物保护",
    "basic_medicine": "基础医学",
    "clinical_medicine": "临床医学",
    "urban_and_rural_planner": "注册城乡规划师",
    "accountant": "注册会计师",
    "fire_engineer": "注册消防工程师",
    "environmental_impact_assessment_engineer": "环境影响评价工程师",
    "tax_accountant": "税务师",
    "physician": "医师资格",
}


@register_benchmark
class CEval(Benchmark):
    """Files `{split}/{subject}_{split}.csv` (or parquet by subject): id, question, A, B, C, D, answer; the
    answers of `test` came out in July 2025, older files have none."""

    name = "ceval"
    title = Text("C-Eval: examinations in 52 subjects")
    licence = "CC BY-NC-SA 4.0"
    home = "https://huggingface.co/datasets/ceval/ceval-exam"
    split = "val"
    shots_split = "dev"
    counts = {"dev": 260, "val": 1346, "test": 12342}
    prompts = {
        "hanlin-zh": {"cloze": CLOZE, "letters": LETTERED},
        "lm-eval": {
            "letters": Prompt(
                ASKED,
                "{letter}",
                main="sum",
                delimiter=" ",
                description="以下是中国关于{subject}的单项选择题，请选出其中的正确答案。\n\n",
            )
        },
        "official": {
            "letters": Prompt(
                "{published_question}\n{published_options}\n答案：",
                "{letter}",
                main="sum",
                description="以下是中国关于{subject}考试的单项选择题，请选出其中的正确答案。\n\n",
            )
        },
        "opencompass-ppl": {
            "letters": opencompass(
                "以下是中国关于{subject}考试的单项选择题，请选出其中的正确答案。\n",
                "{published_question}\n{published_options}\n答案: ",
                "\n",
            )
        },
    }

    def read(self, folder: Folder, split: str) -> Iterator[Item]:
        """Items by subject; other files of the same layout are passed over."""
        for name in self.files(folder, f"{split}/*_{split}.csv", f"*_{split}.csv", f"*/{split}-*.parquet"):
            *_, above, last = ("", *name.split("/"))
            key = above if last.endswith(".parquet") else last.rpartition(f"_{split}")[0]
            if key in SUBJECTS:
                yield from read_subject(folder, name, key, SUBJECTS[key], "question", "answer")
