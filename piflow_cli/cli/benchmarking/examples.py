"""Commands that `piflow benchmark --help` shows."""

from __future__ import annotations

from piflow_cli.cli import console

EXAMPLES = console.examples(
    ("the embedded students beside their teacher's solvers", "piflow benchmark --metric fid"),
    (
        "one student on two metrics",
        "piflow benchmark --metric fid --metric accuracy --model runs/demo --teacher-steps 1,4,16,128 --samples 2000",
    ),
    (
        "a text-to-image student: how good, and how varied the pictures of one prompt are",
        "piflow benchmark --metric fid --metric diversity --model runs/flux-4nfe --prompts captions.jsonl "
        "--reference photos/ --detector inception.pt --samples 1000 --teacher-steps 4,28",
    ),
    (
        "a student sampled by its ODE, and with fresh noise between its evaluations",
        "piflow benchmark --metric fid --metric diversity --model emoji-4nfe --h 0,0.4,0.8 --teacher-steps 4,32",
    ),
    (
        "a model of your own, nothing downloaded: how far from the teacher's pictures of the same noise",
        "piflow benchmark --metric fid --model runs/mine --prompts prompts.txt --samples 200 --teacher-steps 4,32",
    ),
    (
        "what people see, by models of their own",
        "piflow benchmark --metric clip-score --metric pickscore --metric cmmd --metric vqa-score=models/llava "
        "--model runs/flux-4nfe --prompts prompts.txt --samples 1000 --teacher-steps 28",
    ),
    (
        "what quantising the base costs: scores, pictures of the same noise, grids, bytes and time",
        "piflow benchmark --metric fid --model emoji-4nfe --quantize none,torchao-int8,torchao-fp8 --samples 1000",
    ),
    (
        "a page of it: table, plots over evaluations and time, pictures",
        "piflow benchmark --metric fid --report fid.html",
    ),
    (
        "means over five seeds, with intervals between them",
        "piflow benchmark --metric fid --model digits-1nfe --seeds 0-4 --samples 1000",
    ),
    (
        "whether two results differ by more than noise",
        "piflow benchmark --compare before.json after.json",
    ),
    (
        "by the protocol of pi-Flow's tables, its figures below",
        "piflow benchmark --recipe paper-flux --model runs/flux-4nfe",
    ),
    (
        "before any training: what each policy can say of a teacher at best",
        "piflow benchmark --limits digits-1nfe --nfe 1,2",
    ),
    (
        "with the papers' detector and statistics",
        "piflow benchmark --metric fid --metric kid --model runs/dit-1nfe --reference imagenet256.npz "
        "--detector inception.pt",
    ),
)
