"""What `stillhouse init` writes."""

TEMPLATE = """\
# A run: one teacher pass, several specialists. See what it takes before you pay:  stillhouse plan THIS_FILE
name: clinic
storage: runs                       # a folder, or s3://bucket/prefix
seed: 0

teacher:
  model: Qwen/Qwen3-30B-A3B         # Hugging Face id, or a folder beside this file
  ep_size: 8                        # ranks that share one replica's experts; a dense teacher takes 1
  replicas: [1, 4]                  # least and most copies of the whole model
  gpus_per_rank: 1                  # 0 runs on CPUs
  sampling: {temperature: 1, top_p: 1, max_new_tokens: 512, samples: 1}

prompts:                            # files, a pattern, a folder, or a Hugging Face dataset id; the key is the domain
  medical: data/medical.jsonl       # rows: prompt, messages, conversations, instruction, question or text, with their
                                    # answers to score, or without; optional id, domain, split
  legal: data/legal.jsonl
  code: data/code.jsonl

# domains:                          # what differs by domain, also for rows that name their own
#   medical:
#     system_prompt: You are a careful physician.       # for rows of messages, or of a source with `chat: true`
#     sampling: {max_new_tokens: 1024, samples: 2}      # and stop: ["###"], min_new_tokens: 16, temperature, top_p

targets:
  scheme: systematic                # unbiased sample | threshold | multinomial | topk (with its tail) | hidden | full
  draws: 21                         # more draws are less noise and more bytes; 21 is about 17 bytes a token
  positions: all                    # answer | all: the prompt's own tokens too, for one prefill

defaults:                           # merged into each specialist
  model: Qwen/Qwen3-1.7B            # a dense model with the teacher's tokenizer; also {base: …, lora: {rank: 16}},
                                    # or {merge_experts: Qwen/Qwen3-30B-A3B}: the teacher with its experts made one
  loss: {kl: 1, ce: 0}
  train: {tokens: 20M, batch_tokens: 64k, micro_tokens: 8k, lr: 2e-5, workers: 1, gpus_per_worker: 1, zero: 2}

specialists:                        # mix: share of target tokens by domain; without one, the domain of its own name
  medical: {mix: {medical: .8, legal: .1, code: .1}}
  legal: {mix: {legal: .8, medical: .1, code: .1}}
  code: {mix: {code: .8, medical: .1, legal: .1}}

evaluate:
  heldout: 5%                         # of each domain, or {share: 5%, max_texts: 500, max_tokens: 256k}
  baselines: [initial, hard_labels]   # also: given_answers, generalist, single_expert, teacher_4bit
  control_tokens: 10%                 # of its specialist's budget, or a number: what a hard-label control trains on
  # tasks: {exams: exams.jsonl}       # {prompt, choices, answer, domain}: what is kept of the teacher's scores
  # gate: {retention: 95%}            # exit code 3 where a specialist keeps less
  gpus: 1

export: [safetensors]            # also gguf (llama.cpp, ollama), compressed-tensors (vLLM)
# trackers: [tensorboard]        # also mlflow, wandb, trackio, prometheus
"""
