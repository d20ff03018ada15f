// Datasets, batch and length of the run.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "config/mindformers_translation.h"

namespace fathom::config {
namespace {

const std::string kLoader = "train_dataset.data_loader.";
const std::string kConfig = "train_dataset.data_loader.config.";

std::optional<double> number_of(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

std::string trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t"), end = text.find_last_not_of(" \t");
  return begin == std::string::npos ? "" : text.substr(begin, end - begin + 1);
}

// Sequences an optimizer step.
int64_t translate_batch(Translation& t) {
  const std::string batch = "runner_config.batch_size", micro = "parallel_config.micro_batch_num",
                    accumulation = "runner_config.gradient_accumulation_steps",
                    halves = "micro_batch_interleave_num";
  const int64_t micro_batch = t.count(batch, 1), interleave = t.count(halves, 1);
  const int64_t micro_batches = t.count(micro, 1), steps = t.count(accumulation, 1);
  const bool is_pipeline = t.pipeline > 1;
  if (static_cast<double>(micro_batch * t.data) * static_cast<double>(interleave) *
          static_cast<double>(is_pipeline ? micro_batches : steps) >
      1e12)
    throw ConfigError("{}: a batch of more than 1e12 sequences", t.yaml.source);
  const int64_t global = micro_batch * t.data * interleave * (is_pipeline ? micro_batches : steps);
  t.carried(batch, t.put("train.micro_batch_size", micro_batch), "of each data rank");
  const std::string written = t.put("train.global_batch_size", global);
  const std::string product = fmt::format("{} a rank x {} data ranks x {} micro-batches", micro_batch, t.data,
                                          global / (micro_batch * t.data));
  if (is_pipeline) {
    t.carried(micro, written, product);
    if (t.find(accumulation))
      t.meaningless(accumulation, "with pipeline stages MindFormers takes micro_batch_num");
  } else {
    if (t.find(micro)) t.meaningless(micro, "with one pipeline stage MindFormers takes 1");
    t.carried(accumulation, written, product);
  }
  if (t.find(halves) && interleave == 1) t.by_default(halves, "one batch at a time");
  if (t.find(halves)) t.mapped(halves, written, "so many times the sequences");
  return global;
}

// Data paths: a list of prefixes, or of weight, prefix, weight, prefix. `has_weights` is set.
Json sources_of(const Translation& t, const Tree& list, bool& has_weights) {
  std::vector<std::string> words;
  if (list.kind == Tree::Kind::sequence)
    for (const Tree& item : list.items) words.push_back(trimmed(item.as_text()));
  else
    words.push_back(trimmed(list.as_text()));
  has_weights = words.size() % 2 == 0 && !words.empty();
  for (size_t i = 0; has_weights && i < words.size(); i += 2) has_weights = number_of(words[i]).has_value();
  Json sources = Json::array();
  if (!has_weights)
    for (const std::string& path : words) sources.push_back({{"path", t.path_from_recipe(path)}});
  else
    for (size_t i = 0; i < words.size(); i += 2)
      sources.push_back({{"path", t.path_from_recipe(words[i + 1])}, {"weight", *number_of(words[i])}});
  return sources;
}

// What MindFormers puts into its blended dataset: half a percent more than asked for of each part.
int64_t blended_samples(const Json& sources, int64_t wanted, bool has_weights) {
  if (!has_weights) return wanted;
  double total = 0;
  for (const Json& source : sources) total += source["weight"].get<double>();
  int64_t samples = 0;
  for (const Json& source : sources)
    samples += static_cast<int64_t>(
        std::ceil(static_cast<double>(wanted) * (source["weight"].get<double>() / total) * 1.005));
  return samples;
}

// Returns the samples of one epoch; 0: not known.
int64_t translate_megatron(Translation& t) {
  t.put("data.kind", "pretrain");
  bool has_weights = false;
  Json sources = Json::array();
  for (const char* key : {"data_path", "train_data_path"}) {
    const std::string path = kConfig + key;
    t.know(path);
    const Tree* node = t.find(path);
    if (!node) continue;
    sources = sources_of(t, *node, has_weights);
    t.mapped(path, t.put("data.train", sources), "relative paths are seen from the recipe");
  }
  if (sources.empty())
    t.unsupported(kConfig + "data_path", "is missing: the recipe needs data.train", KeyEffect::blocks);
  const std::string valid = kConfig + "valid_data_path", split = kConfig + "split";
  t.know(valid);
  if (const Tree* node = t.find(valid)) {
    bool ignored = false;
    t.mapped(valid, t.put("data.valid", sources_of(t, *node, ignored)));
  }
  std::string parts;
  for (const char c : t.text(split, "1,0,0"))
    if (c != ' ') parts += c;
  const std::string held_out = parts.substr(std::min(parts.find(','), parts.size()));
  const bool is_all_training = held_out.find_first_of("123456789") == std::string::npos;
  if (t.find(split)) {
    if (is_all_training)
      t.by_default(split, "everything is trained on");
    else
      t.mapped(split, t.put("data.split", parts));
  }
  const std::string length = kConfig + "seq_length", model_length = "model.model_config.seq_length";
  const int64_t of_model = t.integer(model_length, 2048), of_data = t.integer(length, of_model);
  t.carried(length, t.put("data.seq_length", of_data));
  if (t.find(model_length)) {
    if (of_model == of_data)
      t.mapped(model_length, fmt::format("data.seq_length: {}", of_data));
    else
      t.unsupported(
          model_length,
          fmt::format("is {}, but the dataset makes sequences of {} ({})", of_model, of_data, length),
          KeyEffect::blocks);
  }
  const std::string seed = kConfig + "seed", wrong_seed = kConfig + "random_seed";
  t.carried(seed, t.put("seed", t.integer(seed, 1234)), "of the order of the samples (Megatron's)");
  if (t.find(wrong_seed))
    t.meaningless(
        wrong_seed, fmt::format("MindFormers reads {} and never this", seed),
        t.integer(wrong_seed, 1234) == t.integer(seed, 1234) ? KeyEffect::none : KeyEffect::differs);
  if (t.find("seed"))
    t.meaningless("seed",
                  "of the initial weights, which Fathom draws in its own way from the seed of the data");

  const Tree* arguments = t.find("train_dataset.construct_args_key");
  const auto reaches_model = [&](const std::string& column) {
    if (!arguments) return false;
    for (const Tree& item : arguments->items)
      if (item.text == column) return true;
    return false;
  };
  struct Switch {
    const char* key;
    const char* column;
  };
  for (const Switch& option :
       {Switch{"reset_position_ids", "position_ids"}, Switch{"reset_attention_mask", "attention_mask"},
        Switch{"eod_mask_loss", "loss_mask"}}) {
    const std::string path = kConfig + option.key;
    const bool is_on = t.boolean(path, false);
    if (!t.find(path)) continue;
    if (!is_on)
      t.by_default(path, "off");
    else
      t.mapped(
          path, t.put(std::string("data.") + option.key, true),
          reaches_model(option.column)
              ? ""
              : fmt::format("MindFormers drops it, since construct_args_key has no {}; here it takes effect",
                            option.column),
          reaches_model(option.column) ? KeyEffect::none : KeyEffect::differs);
  }
  const std::string compressed = kConfig + "create_compressed_eod_mask";
  if (t.boolean(compressed, false))
    t.mapped(compressed, t.put("data.reset_attention_mask", true), "documents do not see each other");
  else
    t.rest_is_meaningless(compressed, "off");

  const std::string sizes = kLoader + "sizes";
  t.know(sizes);
  const Tree* list = t.find(sizes);
  if (!list || list->items.empty()) return 0;
  const int64_t wanted = list->items.front().as_integer();
  if (wanted > static_cast<int64_t>(1e15)) list->items.front().fail("is more samples than any dataset has");
  return wanted > 0 ? blended_samples(sources, wanted, has_weights) : 0;
}

void translate_mind_record(Translation& t) {
  const Tree* columns = t.find("train_dataset.input_columns");
  bool has_labels = false;
  if (columns)
    for (const Tree& item : columns->items) has_labels = has_labels || item.text == "labels";
  t.put("data.kind", has_labels ? "sft" : "pretrain");
  Json sources = Json::array();
  for (const char* key : {"dataset_dir", "dataset_files"}) {
    const std::string path = kLoader + key;
    t.know(path);
    const Tree* node = t.find(path);
    if (!node || (node->kind == Tree::Kind::scalar && node->text.empty())) continue;
    bool ignored = false;
    if (node->kind == Tree::Kind::sequence)
      for (const Tree& item : node->items) sources.push_back({{"path", t.path_from_recipe(item.as_text())}});
    else
      sources = sources_of(t, *node, ignored);
    t.mapped(path, t.put("data.train", sources),
             has_labels
                 ? "relative paths are seen from the recipe"
                 : "a MindRecord of plain windows: make a .bin/.idx of the text with fathom data build",
             has_labels ? KeyEffect::none : KeyEffect::differs);
    break;
  }
  if (sources.empty())
    t.unsupported(kLoader + "dataset_dir", "is missing: the recipe needs data.train", KeyEffect::blocks);
  const std::string length = "model.model_config.seq_length", seed = "seed";
  t.carried(length, t.put("data.seq_length", t.integer(length, 2048)));
  t.carried(seed, t.put("seed", t.integer(seed, t.is_legacy ? 1 : 0)),
            "of the initial weights and of the order of the samples");
  const std::string labels = "model.model_config.input_sliced_sig";
  if (has_labels && !t.boolean(labels, false))
    t.meaningless(
        labels,
        "is not True: MindFormers replaces the labels by the shifted inputs and trains on the prompts too; "
        "Fathom trains on what the labels mark",
        KeyEffect::differs);
}

void translate_length(Translation& t, int64_t samples, int64_t global_batch) {
  const std::string epochs = "runner_config.epochs", sizes = kLoader + "sizes",
                    repeat = "train_dataset.repeat";
  const double passes = t.number(epochs, 1) * static_cast<double>(t.count(repeat, 1));
  if (t.find(repeat) && t.integer(repeat, 1) == 1) t.by_default(repeat, "one pass an epoch");
  if (t.find(repeat)) t.mapped(repeat, "the length of the run", "so many passes an epoch");
  const std::string stop = "runner_config.stop_step";
  const int64_t last = t.integer(stop, 0);
  if (samples > 0) {
    const int64_t an_epoch = samples / global_batch;
    if (passes < 0 || passes * static_cast<double>(an_epoch) > 1e12)
      throw ConfigError("{}: {}: the run would have {} steps", t.yaml.source, epochs,
                        passes * static_cast<double>(an_epoch));
    t.steps = static_cast<int64_t>(passes * static_cast<double>(an_epoch));
    if (last > 0) t.steps = std::min(t.steps, last);
    const std::string note = fmt::format(
        "{} samples an epoch (half a percent more than `sizes`, as MindFormers blends) / {} "
        "a step = {}; {} epochs",
        samples, global_batch, an_epoch, passes);
    if (t.steps == 0) {
      t.unsupported(sizes, fmt::format("{} samples are not one step of {}", samples, global_batch),
                    KeyEffect::blocks);
      t.put("train.epochs", passes);
      return;
    }
    const std::string written = t.put("train.steps", t.steps);
    t.mapped(sizes, written, note);
    t.carried(epochs, written);
    if (t.find(stop)) t.mapped(stop, written);
    return;
  }
  if (last > 0) {
    t.steps = last;
    t.mapped(stop, t.put("train.steps", last));
    t.carried(epochs, fmt::format("train.steps: {}", last));
    return;
  }
  t.carried(epochs, t.put("train.epochs", passes));
}

// train_dataset_task.dataset_config is the same by an alias, in every YAML that MindFormers ships.
void translate_task(Translation& t) {
  const std::string task = "train_dataset_task.dataset_config";
  t.know(task);
  const Tree* copy = t.find(task);
  const Tree* dataset = t.find("train_dataset");
  if (!copy) return;
  if (dataset && copy->to_json() == dataset->to_json())
    t.whole_is_meaningless(task, "the same as train_dataset");
  else
    t.unsupported(task, "is another dataset than train_dataset: keep one", KeyEffect::blocks);
  t.whole_is_meaningless(task, "");
}

void translate_evaluation(Translation& t) {
  const bool is_on = t.boolean("do_eval", false);
  t.rest_is_meaningless("eval_dataset_task", is_on ? "see eval_dataset" : "do_eval is off");
  if (!is_on) {
    for (const char* section :
         {"do_eval", "eval_step_interval", "eval_epoch_interval", "eval_dataset", "eval_callbacks"})
      t.rest_is_meaningless(section, "do_eval is off");
    return;
  }
  const std::string every = "eval_step_interval", path = "eval_dataset.data_loader.dataset_dir";
  const int64_t steps = t.integer(every, 100);
  const Tree* data = t.find(path);
  if (steps <= 0 || !data || data->text.empty()) {
    t.unsupported("do_eval",
                  "needs eval_step_interval and eval_dataset.data_loader.dataset_dir here; without, nothing "
                  "is evaluated",
                  KeyEffect::none);
  } else {
    t.by_default("do_eval", "by train.eval_every");
    t.carried(every, t.put("train.eval_every", steps));
    t.mapped(path, t.put("data.valid", Json::array({{{"path", t.path_from_recipe(data->text)}}})));
  }
  for (const char* section : {"eval_epoch_interval", "eval_dataset", "eval_callbacks"})
    t.rest_is_meaningless(section, "of MindFormers' evaluation");
}

}  // namespace

void translate_data(Translation& t) {
  translate_task(t);
  const int64_t global = translate_batch(t);
  const std::string type = kLoader + "type", kind = t.text(type, "");
  int64_t samples = 0;
  if (kind == "BlendedMegatronDatasetDataLoader") {
    t.by_default(type, "data.kind: pretrain");
    samples = translate_megatron(t);
  } else if (kind == "MindDataset") {
    t.mapped(type, "data.kind", "by the columns: with labels sft");
    translate_mind_record(t);
  } else {
    t.unsupported(type, "known: BlendedMegatronDatasetDataLoader, MindDataset; the recipe needs data.train",
                  KeyEffect::blocks);
    t.carried("seed", t.put("seed", t.integer("seed", 1)));
    const std::string length = "model.model_config.seq_length";
    t.carried(length, t.put("data.seq_length", t.integer(length, 2048)));
  }
  translate_length(t, samples, global);
  translate_evaluation(t);
}

}  // namespace fathom::config
