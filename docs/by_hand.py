"""The mission in one file, with PEFT, lm-eval and numpy alone: which rank of a LoRA is enough?

    python docs/by_hand.py BASE ADAPTER TASK [FOLDER_OF_TASK_FILES]

Every rank is evaluated anew: nothing is kept, resumed or made fast. `aurac compare` gives the same
numbers (tests/docs/test_by_hand.py).
"""

import sys

import lm_eval
import numpy as np
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def cut(model, rank):
    """Replace the update s·B·A of every layer by its best approximation of that rank."""
    for layer in model.modules():
        if hasattr(layer, "lora_A"):
            A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            update = (layer.scaling["default"] * B @ A).double()
            U, S, V = torch.linalg.svd(update, full_matrices=False)
            layer.scaling["default"] = 1.0
            A.data.zero_()[:rank] = V[:rank]
            B.data.zero_()[:, :rank] = U[:, :rank] * S[:rank]
    return model


def scores(model, tokenizer, task, folder, limit):
    """1 for each example that is answered right, else 0."""
    lm = HFLM(pretrained=model.eval(), tokenizer=tokenizer, batch_size=16)
    how = {"task_manager": TaskManager(include_path=folder), "bootstrap_iters": 0, "limit": limit}
    done = lm_eval.simple_evaluate(lm, tasks=[task], **how)
    rows = sorted(done["samples"][task], key=lambda row: row["doc_id"])
    return np.array([row["acc"] for row in rows])


def interval(values, low, high, alpha=0.05, further=1):
    """Student's t of a mean, with further examples as far out as they can be at either end."""
    ends = []
    for extreme, sign in ((low, -1), (high, 1)):
        x = np.append(values, [extreme] * further)
        angle = np.linspace(0, np.pi / 2, 200_001)  # t = √df · tan(angle)
        share = np.cumsum(np.cos(angle) ** (x.size - 2))
        t = np.sqrt(x.size - 1) * np.tan(angle[np.searchsorted(share / share[-1], 1 - alpha)])
        ends.append(x.mean() + sign * t * x.std(ddof=1) / np.sqrt(x.size))
    return max(ends[0], low), min(ends[1], high)


def by_hand(base, adapter, task, folder=None, limit=None, margin=0.02):
    """Accuracy at each rank (0: the base), AURAC with its interval, and the rank to ship."""
    tokenizer, right = AutoTokenizer.from_pretrained(base), {}
    trained = PeftConfig.from_pretrained(adapter).r
    ranks = sorted({2**i for i in range(trained.bit_length())} | {trained})
    for rank in [0, *ranks]:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = PeftModel.from_pretrained(model, adapter) if rank else model
        model = cut(model, rank) if 0 < rank < trained else model
        right[rank] = scores(model, tokenizer, task, folder, limit)
    x, y = np.log2(ranks), np.stack([right[r] for r in ranks])
    areas = ((y[1:] + y[:-1]) / 2 * np.diff(x)[:, None]).sum(axis=0) / (x[-1] - x[0])
    ship = None
    for r in reversed(ranks):  # down to the first rank that is not shown to be good enough
        loss = interval(right[trained] - right[r], -1, 1, 0.1, 2)[1] if r < trained else 0
        if interval(right[r] - right[0], -1, 1, 0.1, 2)[0] <= 0 or loss > margin:
            break
        ship = r
    accuracy = {r: float(values.mean()) for r, values in right.items()}
    area = float(areas.mean()), *map(float, interval(areas, 0, 1))
    return {"accuracy": accuracy, "aurac": area, "ship": ship}


if __name__ == "__main__":
    print(by_hand(*sys.argv[1:]))
