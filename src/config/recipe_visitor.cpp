#include "config/recipe_visitor.h"

namespace fathom::config {
namespace {

constexpr double kMaxSteps = 1e12;
constexpr double kMaxTokens = 1e18;
constexpr double kMaxRanks = 1 << 20;

void visit_data(RecipeVisitor& v, DataSection& data) {
  v.begin_section({"data", "", "What is trained on."});
  v.text({"kind", "", "`pretrain`: windows over token streams; `sft`: conversations with a loss mask."},
         data.kind, {"pretrain", "sft"});
  v.sources({"train", "", "The training data, blended by weight.", "required"}, data.train);
  v.sources({"valid", "", "The held-out data of `train.eval_every`."}, data.valid);
  v.integer(
      {"seq_length", "tokens", "Length of a training sequence; at most `model.max_position_embeddings`."},
      data.seq_length, between(1, 1 << 30));
  v.boolean({"reset_position_ids", "", "Positions start again at 0 after each end-of-document token."},
            data.reset_position_ids);
  v.boolean({"reset_attention_mask", "", "Documents in one sequence do not attend to each other."},
            data.reset_attention_mask);
  v.boolean({"eod_mask_loss", "", "No loss where the input is the end-of-document token."},
            data.eod_mask_loss);
  v.text({"split", "parts",
          "Three weights such as `969,30,1` that cut each of `data.train` by documents into training, "
          "held-out and "
          "test data; without `data.valid` only."},
         data.split, {});
  v.path({"tokenizer", "", "A `tokenizer.json` or its directory, copied into each checkpoint.",
          "the model directory's, if it has one"},
         data.tokenizer, PathBase::recipe_file);
  v.end_section();
}

void visit_optimizer(RecipeVisitor& v, OptimizerSection& optimizer) {
  v.begin_section({"optimizer", "", "AdamW with decoupled decay; norms and biases are not decayed."});
  v.text({"type", "", "The optimizer."}, optimizer.type, {"adamw"});
  v.betas({"betas", "", "Decay of the first and second moments."}, optimizer.beta1, optimizer.beta2);
  v.number({"eps", "", "Added to the root of the second moment."}, optimizer.eps, positive());
  v.number({"weight_decay", "per unit of learning rate", "Decay of matrices."}, optimizer.weight_decay,
           at_least(0));
  v.choice({"state_dtype", "", "Storage of the moments."}, optimizer.state_dtype, {"fp32", "bf16"});
  v.end_section();
}

void visit_lr(RecipeVisitor& v, LrSection& lr) {
  v.begin_section({"lr", "", "The learning rate over the run. Warm-up is linear from 0."});
  v.choice({"schedule", "",
            "After the warm-up. `constant`: `peak`; `linear`, `cosine`: from `peak` to `min`; `wsd`: `peak`, "
            "then down to "
            "`min` over the last `decay_steps`; `step`: times `step_factor` at each of `step_at`; "
            "`deepseek_v3`: the "
            "report's four stages."},
           lr.schedule, {"constant", "linear", "cosine", "wsd", "step", "deepseek_v3"});
  v.number({"peak", "", "The highest rate."}, lr.peak, at_least(0));
  v.number({"min", "", "The rate that `linear`, `cosine`, `wsd` and the cosine of `deepseek_v3` end at."},
           lr.min, at_least(0));
  v.integer({"warmup_steps", "steps", "Length of the warm-up."}, lr.warmup_steps, between(0, kMaxSteps));
  v.number({"warmup_ratio", "of all steps", "Length of the warm-up; not with `warmup_steps`."},
           lr.warmup_ratio, between(0, 1));
  v.integer({"decay_steps", "steps",
             "Length of the decline of `linear` and `cosine` (warm-up included) and of `wsd`'s last part. 0: "
             "to the end "
             "of the run; for `wsd` its last tenth."},
            lr.decay_steps, between(0, kMaxSteps));
  v.text({"wsd_decay", "", "Shape of `wsd`'s decline."}, lr.wsd_decay, {"linear", "cosine", "sqrt"});
  v.integers({"step_at", "steps", "`step`: where the rate falls, ascending."}, lr.step_at,
             between(1, kMaxSteps));
  v.number({"step_factor", "", "`step`: what the rate is multiplied by."}, lr.step_factor, positive());
  v.number({"hold_until", "of the run", "`deepseek_v3`: `peak` until here.", "10 / 14.8"}, lr.hold_until,
           between(0, 1));
  v.number({"cosine_until", "of the run", "`deepseek_v3`: cosine to `min` until here.", "14.3 / 14.8"},
           lr.cosine_until, between(0, 1));
  v.number({"low_until", "of the run", "`deepseek_v3`: `min` until here, then `final`.", "14.633 / 14.8"},
           lr.low_until, between(0, 1));
  v.number({"final", "", "`deepseek_v3`: the rate of the last stage."}, lr.final, at_least(0));
  v.end_section();
}

void visit_train(RecipeVisitor& v, TrainSection& train) {
  v.begin_section({"train", "", "How it is trained. Exactly one of `steps`, `tokens`, `epochs` is given."});
  v.integer({"steps", "steps", "Optimizer steps of the run.", "one of the three"}, train.steps,
            between(1, kMaxSteps));
  v.integer({"tokens", "tokens", "Trained tokens of the run, rounded up to whole steps.", "one of the three"},
            train.tokens, between(1, kMaxTokens));
  v.number(
      {"epochs", "passes", "Passes over the training data, rounded up to whole steps.", "one of the three"},
      train.epochs, {0, 1e9, true});
  v.scheduled({"global_batch_size", "sequences",
               "Sequences an optimizer step; a multiple of `micro_batch_size` x `parallel.data`."},
              train.global_batch_size, between(1, 1 << 30), true);
  v.integer({"micro_batch_size", "sequences", "Sequences a forward and backward pass on one rank."},
            train.micro_batch_size, between(1, 1 << 20));
  v.choice({"precision", "",
            "`bf16`: bf16 weights and activations with fp32 masters; `bf16_pure`: no masters; `fp8`: fp8 "
            "products; "
            "`fp64`: for proofs."},
           train.precision, {"fp32", "bf16", "bf16_pure", "fp8", "fp64"});
  v.choice(
      {"grad_dtype", "",
       "What precision `bf16` adds weights' gradients in: fp32, or bf16, which saves 2 bytes a parameter "
       "and rounds after each micro-batch."},
      train.grad_dtype, {"fp32", "bf16"});
  visit_optimizer(v, train.optimizer);
  visit_lr(v, train.lr);
  v.number({"clip_grad_norm", "", "Largest global gradient norm; 0: no clipping."}, train.clip_grad_norm,
           at_least(0));
  v.recompute(
      {"recompute", "",
       "What the backward pass computes again instead of keeping: `none`; `full`: each layer; `selective`: "
       "MLA up-projections and attention (norms and SwiGLU are never kept); or a list: so many layers of "
       "each "
       "pipeline stage."},
      train.recompute);
  v.scheduled({"mtp_loss_weight", "", "Weight of the MTP loss, divided by the number of MTP modules."},
              train.mtp_loss_weight, at_least(0), false);
  v.number({"z_loss", "", "Weight of the squared log-normaliser of the logits; 0: off."}, train.z_loss,
           at_least(0));
  v.begin_section({"balance", "", "Load balance of the experts."});
  v.scheduled({"bias_update_rate", "", "Step of the selection bias after each optimizer step; 0: off.",
               "0.001; 0 for a model without selection bias (V2)"},
              train.balance.bias_update_rate, at_least(0), false);
  v.number({"sequence_aux_loss", "", "Weight of the sequence-wise balance loss; 0: off.",
            "the model's aux_loss_alpha, else 0.0001"},
           train.balance.sequence_aux_loss, at_least(0));
  v.boolean({"recenter_bias", "", "Subtract the mean from the selection bias after each update."},
            train.balance.recenter_bias);
  v.end_section();
  v.integer({"eval_every", "steps", "Evaluate on the held-out data every so many steps; 0: never."},
            train.eval_every, between(0, kMaxSteps));
  v.integer({"eval_batches", "micro-batches", "Length of an evaluation; 0: all held-out data."},
            train.eval_batches, between(0, kMaxSteps));
  v.begin_section({"nan", "", "What happens when the loss or a gradient is not finite."});
  v.choice({"action", "", "`skip`: leave the step out and count it; `stop`: end the run."}, train.nan.action,
           {"skip", "stop"});
  v.integer({"stop_after", "steps", "End the run after so many skipped steps in a row."},
            train.nan.stop_after, between(1, kMaxSteps));
  v.end_section();
  int64_t threads = train.threads;
  v.integer({"threads", "threads", "Threads a rank; 0: cores divided by ranks on this host."}, threads,
            between(0, 1 << 16));
  train.threads = static_cast<int>(threads);
  v.end_section();
}

void visit_parallel(RecipeVisitor& v, ParallelSection& parallel) {
  v.begin_section({"parallel", "", "How the model and the batch are spread over ranks."});
  v.integer({"data", "ranks", "Copies that train on different sequences."}, parallel.data,
            between(1, kMaxRanks));
  v.integer({"tensor", "ranks", "Ranks that share each matrix."}, parallel.tensor, between(1, kMaxRanks));
  v.integer({"pipeline", "stages", "Stages that hold consecutive layers."}, parallel.pipeline,
            between(1, kMaxRanks));
  v.integer({"context", "ranks", "Ranks that share each sequence."}, parallel.context, between(1, kMaxRanks));
  v.integer({"expert", "ranks", "Ranks of data x tensor that share the experts."}, parallel.expert,
            between(1, kMaxRanks));
  v.integer({"expert_tensor", "ranks", "Ranks that share each expert's matrices."}, parallel.expert_tensor,
            between(1, kMaxRanks));
  v.boolean({"sequence", "", "With `tensor` > 1, norms and residuals are split over the sequence."},
            parallel.sequence);
  v.text({"schedule", "", "The pipeline schedule."}, parallel.schedule,
         {"1f1b", "interleaved_1f1b", "zero_bubble", "dualpipe_v"});
  v.integer({"virtual_stages", "chunks",
             "Runs of layers that each rank of the pipeline has; 0: 2 for `interleaved_1f1b` and "
             "`dualpipe_v`, else 1."},
            parallel.virtual_stages, between(0, 64));
  v.integers({"layer_offset", "layers",
              "Layers more (or fewer) than the even split, for each stage; sums to 0. MTP modules count, as "
              "the last; what "
              "does not divide goes to the first stages, one each."},
             parallel.layer_offset, between(-10000, 10000));
  v.integer({"zero", "stage", "What is sharded over `data`: 0 nothing, 1 optimizer states, 2 gradients too."},
            parallel.zero, between(0, 2));
  v.integer({"timeout_s", "seconds", "A collective that takes longer ends the run."}, parallel.timeout_s,
            between(1, 1e6));
  v.end_section();
}

void visit_checkpoint(RecipeVisitor& v, CheckpointSection& checkpoint) {
  v.begin_section({"checkpoint", "", "What is saved, and what the run starts from. Resuming needs no key."});
  v.integer({"every", "steps", "Save every so many steps; 0: only at the end."}, checkpoint.every,
            between(0, kMaxSteps));
  v.integer({"keep", "checkpoints", "How many of the newest are kept; 0: all."}, checkpoint.keep,
            between(0, 1e9));
  v.path({"load", "",
          "A checkpoint directory whose weights the run starts from, or a run's directory: its newest good "
          "one."},
         checkpoint.load, PathBase::recipe_file);
  v.boolean({"load_optimizer", "", "Take the optimizer state of `load` too."}, checkpoint.load_optimizer);
  v.text({"optimizer", "", "Which checkpoints hold what resuming needs."}, checkpoint.optimizer,
         {"all", "last", "none"});
  v.integer(
      {"snapshot_bytes", "bytes",
       "Extra memory that saving in the background may take; 0: save in the foreground.", "a tenth of RAM"},
      checkpoint.snapshot_bytes, between(-1, 1e15));
  v.end_section();
}

}  // namespace

void visit_recipe(RecipeVisitor& v, Recipe& recipe) {
  v.path({"output_dir", "", "Everything the run writes; relative to the working directory.", "required"},
         recipe.output_dir, PathBase::working_directory);
  int64_t seed = static_cast<int64_t>(recipe.seed);
  v.integer({"seed", "", "Of initial weights and data order."}, seed, between(0, 9.2e18));
  recipe.seed = static_cast<uint64_t>(seed);
  v.text({"device", "", "Where it runs."}, recipe.device, {"cpu", "cuda", "auto"});
  v.model(
      {"model", "", "An HF `config.json`, an HF checkpoint directory, or the HF keys inline.", "required"},
      recipe);
  visit_data(v, recipe.data);
  visit_train(v, recipe.train);
  visit_parallel(v, recipe.parallel);
  visit_checkpoint(v, recipe.checkpoint);
  v.begin_section({"log", "", "The progress lines."});
  v.integer({"every", "steps", "Print a line every so many steps; metrics.jsonl has every step."},
            recipe.log.every, between(1, kMaxSteps));
  v.end_section();
}

const char* name(Precision precision) {
  static const char* const kNames[] = {"fp32", "bf16", "bf16_pure", "fp8", "fp64"};
  return kNames[static_cast<int>(precision)];
}

}  // namespace fathom::config
