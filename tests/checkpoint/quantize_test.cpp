// fathom quantize on a small random model with MTP and an expert layer, and its files against compressed-tensors'.
#include "checkpoint/quantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/file.h"
#include "checkpoint/compare.h"
#include "checkpoint/convert.h"
#include "checkpoint/init.h"
#include "checkpoint/inspect.h"
#include "checkpoint/stored_values.h"
#include "support/scratch.h"

namespace fathom::checkpoint {
namespace {

using formats::Dtype;
using ::testing::HasSubstr;

config::ModelConfig small_model() {
  Json json = read_json_file(fs::path(FATHOM_SOURCE_DIR) / "configs/models/tiny.json");
  json["vocab_size"] = 40;
  json["hidden_size"] = 160;
  json["n_routed_experts"] = 8;
  json["n_group"] = 4;
  json["topk_group"] = 2;
  return config::parse_model_config(json, "tiny.json");
}

std::vector<bf16> values_of(const fs::path& directory, const std::string& name) {
  const auto reader = std::make_shared<const formats::ShardedReader>(directory);
  const TensorView view = stored_view(reader, name);
  std::vector<bf16> values(static_cast<size_t>(view.numel()));
  view.read(0, view.numel(), Dtype::BF16, reinterpret_cast<std::byte*>(values.data()));
  return values;
}

bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

class Quantize : public ::testing::Test {
 protected:
  Quantize() : source_(scratch_ / "source") {
    init_checkpoint(small_model(), Dtype::BF16, 7, source_);
    write_text_file(source_ / "chat_template.jinja", "{{ messages }}");
  }

  static QuantizeOptions scheme(const std::string& name, int64_t group_size = 32) {
    QuantizeOptions options;
    options.scheme = name;
    options.group_size = group_size;
    return options;
  }
  fs::path quantize(const std::string& name, const QuantizeOptions& options, const fs::path& from = {}) {
    const fs::path directory = scratch_ / name;
    report_ = quantize_checkpoint(from.empty() ? source_ : from, directory, options);
    const Inspection inspection = inspect(directory);
    EXPECT_THAT(inspection.missing, ::testing::IsEmpty());
    EXPECT_THAT(inspection.unexpected, ::testing::IsEmpty());
    EXPECT_EQ(inspection.stored_parameters, inspection.counts->stored);
    return directory;
  }
  fs::path widened(const std::string& name, const fs::path& from) {
    ConvertOptions options;
    options.dtype = "bf16";
    convert_checkpoint(from, scratch_ / name, options);
    return scratch_ / name;
  }
  template <typename Fault = UsageError>
  std::string refusal(const QuantizeOptions& options) {
    try {
      quantize_checkpoint(source_, scratch_ / "refused", options);
    } catch (const Fault& e) {
      return e.what();
    }
    return "not refused";
  }

  const test::ScratchDirectory scratch_;
  const fs::path source_;
  QuantizeReport report_;
};

TEST_F(Quantize, WT_13_what_must_stay_keeps_its_bits) {
  for (const char* name : {"w8a8", "int4"}) {
    const fs::path directory = quantize(name, scheme(name));
    const formats::ShardedReader from(source_), to(directory);
    int64_t kept = 0;
    const config::TensorTable table(small_model());
    for (const config::TensorSpec& spec : table.tensors()) {
      const bool stays =
          spec.role == config::TensorRole::router || spec.role == config::TensorRole::router_bias ||
          spec.role == config::TensorRole::norm || spec.role == config::TensorRole::embedding ||
          spec.role == config::TensorRole::head || spec.role == config::TensorRole::mtp_head ||
          spec.role == config::TensorRole::mtp_embedding || spec.role == config::TensorRole::mtp_projection ||
          spec.name.ends_with("kv_b_proj.weight");
      if (!stays) {
        EXPECT_TRUE(find_stored_ints(to, spec.name)) << spec.name;
        continue;
      }
      ++kept;
      EXPECT_TRUE(same_bytes(from.at(spec.name).bytes(), to.at(spec.name).bytes())) << spec.name;
    }
    EXPECT_GT(kept, 30);
    EXPECT_TRUE(fs::exists(directory / "chat_template.jinja"));
  }
}

TEST_F(Quantize, codes_are_the_nearest) {
  for (const char* name : {"w8a8", "int4"}) {
    const fs::path directory = quantize(name, scheme(name));
    const formats::ShardedReader from(source_), to(directory);
    for (const QuantizedTensor& tensor : report_.tensors) {
      const StoredInts matrix = *find_stored_ints(to, tensor.name);
      EXPECT_EQ(matrix.weights.group_size, name == std::string("int4") ? 32 : -1);
      const int64_t numel = matrix.rows * matrix.columns;
      std::vector<float> values(static_cast<size_t>(numel)), decoded(values.size());
      read_as_float(from, tensor.name, 0, numel, values.data());
      read_as_float(to, tensor.name, 0, numel, decoded.data());
      const int64_t group = matrix.weights.group_size > 0 ? matrix.weights.group_size : matrix.columns;
      double squared_error = 0, squared = 0, largest_error = 0;
      for (int64_t begin = 0; begin < numel; begin += group) {
        float largest = 0;
        for (int64_t i = begin; i < begin + group; ++i) largest = std::max(largest, std::fabs(values[i]));
        const float steps = matrix.weights.bits == 8 ? 127 : 7.5,
                    scale = to_float(fathom::to_bf16(largest / steps));
        for (int64_t i = begin; i < begin + group; ++i) {
          const float error = std::fabs(decoded[i] - values[i]);
          // Half a step; beyond the highest code, what is cut off.
          ASSERT_LE(error, std::max(scale * 0.5001f, largest - scale * (matrix.weights.bits == 8 ? 127 : 7)))
              << tensor.name << " " << i;
          squared_error += double(error) * error;
          squared += double(values[i]) * values[i];
          largest_error = std::max<double>(largest_error, error);
        }
      }
      EXPECT_EQ(tensor.error.elements, numel);
      EXPECT_NEAR(tensor.error.relative(), std::sqrt(squared_error / squared), 1e-6);
      EXPECT_NEAR(tensor.error.largest_error, largest_error, 1e-6 * largest_error);
    }
    EXPECT_GT(report_.tensors.size(), 80u);
  }
}

TEST_F(Quantize, WT_11_fp8_as_published_is_the_same_as_by_way_of_bf16) {
  const fs::path fp8 = quantize("fp8", scheme("fp8"));
  EXPECT_GT(report_.tensors.size(), 80u);
  EXPECT_LT(report_.tensors[0].error.relative(), 0.05);
  EXPECT_GT(report_.tensors[0].error.relative(), 0.005);
  ConvertOptions options;
  options.dtype = "fp8";
  convert_checkpoint(source_, scratch_ / "converted", options);
  EXPECT_TRUE(compare(inspect(fp8), inspect(scratch_ / "converted")).identical());
  const fs::path wide = widened("wide", fp8);
  for (const char* name : {"w8a8", "int4"}) {
    const fs::path straight = quantize(std::string("straight-") + name, scheme(name), fp8);
    const fs::path detour = quantize(std::string("detour-") + name, scheme(name), wide);
    EXPECT_TRUE(compare(inspect(straight), inspect(detour)).identical());
  }
}

TEST_F(Quantize, quantised_checkpoints_convert_and_are_cut) {
  for (const char* name : {"w8a8", "int4"}) {
    const fs::path directory = quantize(name, scheme(name));
    const fs::path wide = widened(std::string(name) + "-bf16", directory);
    EXPECT_FALSE(config::read_model_config(wide).quantization);
    for (const QuantizedTensor& tensor : report_.tensors)
      EXPECT_EQ(std::memcmp(values_of(directory, tensor.name).data(), values_of(wide, tensor.name).data(),
                            values_of(wide, tensor.name).size() * 2),
                0);
    ConvertOptions cut;
    cut.cut.layers = "0,2";
    cut.max_shard_bytes = 100'000;
    convert_checkpoint(directory, scratch_ / "cut", cut);
    const Inspection inspection = inspect(scratch_ / "cut");
    EXPECT_THAT(inspection.missing, ::testing::IsEmpty());
    EXPECT_THAT(inspection.unexpected, ::testing::IsEmpty());
    const std::string expert = ".mlp.experts.3.up_proj.weight";
    EXPECT_EQ(std::memcmp(values_of(scratch_ / "cut", "model.layers.1" + expert).data(),
                          values_of(directory, "model.layers.2" + expert).data(), 100),
              0);
    fs::remove_all(scratch_ / "cut");
  }
}

TEST_F(Quantize, the_head_may_be_another_format) {
  QuantizeOptions options = scheme("int4");
  options.lm_head = "int8";
  const fs::path directory = quantize("mixed", options);
  const formats::ShardedReader reader(directory);
  EXPECT_EQ(find_stored_ints(reader, "lm_head.weight")->weights.bits, 8);
  EXPECT_EQ(find_stored_ints(reader, "model.layers.0.mlp.up_proj.weight")->weights.bits, 4);
  const config::ModelConfig model = config::read_model_config(directory);
  EXPECT_EQ(model.quantization->raw["format"], "mixed-precision");
  options.lm_head = "int4";
  const fs::path all = quantize("all", options);
  EXPECT_EQ(config::read_model_config(all).quantization->groups.size(), 1u);
  EXPECT_EQ(find_stored_ints(formats::ShardedReader(all), "lm_head.weight")->weights.bits, 4);
}

TEST_F(Quantize, a_stopped_run_goes_on) {
  QuantizeOptions options = scheme("int4");
  options.max_shard_bytes = 60'000;
  const fs::path whole = quantize("whole", options);
  std::atomic<int> asked{0};
  options.is_stopped = [&] { return ++asked > 60; };
  EXPECT_THROW(quantize_checkpoint(source_, scratch_ / "stopped", options), Error);
  EXPECT_FALSE(fs::exists(scratch_ / "stopped/config.json"));
  options.is_stopped = [] { return false; };
  const fs::path resumed = quantize("stopped", options);
  EXPECT_GT(report_.written.resumed_bytes, 0u);
  EXPECT_EQ(report_.tensors.front().error.elements, 0) << "not measured again";
  EXPECT_TRUE(compare(inspect(whole), inspect(resumed)).identical());
}

TEST_F(Quantize, WT_13_NaN_in_the_source_is_named) {
  const std::string name = "model.layers.1.mlp.experts.5.up_proj.weight";
  QuantizeOptions options = scheme("w8a8");
  options.transform = [&](TensorView view) {
    if (view.name != name) return view;
    view.read = [read = view.read](int64_t begin, int64_t count, Dtype as, std::byte* out) {
      read(begin, count, as, out);
      ASSERT_EQ(as, Dtype::F32);
      const float nan = std::numeric_limits<float>::quiet_NaN();
      if (begin <= 333 && 333 < begin + count) std::memcpy(out + 4 * (333 - begin), &nan, 4);
    };
    return view;
  };
  EXPECT_THAT(refusal<CheckpointError>(options), ::testing::AllOf(HasSubstr(name), HasSubstr("row 2")));
  EXPECT_FALSE(fs::exists(scratch_ / "refused/config.json"));
}

TEST_F(Quantize, codes_of_another_method_are_written_as_they_are) {
  const std::string name = "model.layers.1.mlp.experts.5.up_proj.weight";
  std::atomic<int> calls{0};
  for (const char* scheme_name : {"w8a8", "int4"}) {
    QuantizeOptions options = scheme(scheme_name);
    options.encode = [&](const TensorView& matrix, const IntFormat& format) -> std::optional<IntCodes> {
      if (matrix.name != name) return std::nullopt;
      ++calls;
      IntCodes codes;
      for (int64_t i = 0; i < matrix.numel(); ++i) codes.codes.push_back(static_cast<int8_t>(i % 16 - 8));
      for (int64_t i = 0; i < matrix.shape[0] * format.groups(matrix.shape[1]); ++i)
        codes.scales.push_back(static_cast<float>(1 + i % 3));
      return codes;
    };
    const fs::path directory = quantize(scheme_name, options);
    const int64_t columns = 160, group = scheme_name == std::string("int4") ? 32 : 160;
    const std::vector<bf16> values = values_of(directory, name);
    for (int64_t i = 0; i < static_cast<int64_t>(values.size()); ++i)
      ASSERT_EQ(to_float(values[i]),
                float((i % 16 - 8) * (1 + (i / columns * (columns / group) + i % columns / group) % 3)));
  }
  EXPECT_EQ(calls, 2) << "once a matrix";
  QuantizeOptions options = scheme("w8a8");
  options.encode = [](const TensorView&, const IntFormat&) { return IntCodes{{1, 2}, {1}}; };
  EXPECT_THAT(refusal<CheckpointError>(options), HasSubstr("codes"));
}

TEST_F(Quantize, wrong_options_are_refused) {
  EXPECT_THAT(refusal(scheme("int3")), HasSubstr("int3"));
  EXPECT_THAT(refusal(scheme("int4", 48)), HasSubstr("48"));
  EXPECT_THAT(refusal(scheme("int4", 128)),
              ::testing::AllOf(HasSubstr("q_a_proj"), HasSubstr("160 columns")));
  QuantizeOptions head = scheme("fp8");
  head.lm_head = "int8";
  EXPECT_THAT(refusal(head), HasSubstr("--lm-head"));
}

TEST_F(Quantize, parts_that_do_not_fit_are_named) {
  const fs::path directory = quantize("int4", scheme("int4"));
  const auto fault_of = [&](const std::function<bool(formats::TensorDeclaration&)>& edit) -> std::string {
    const formats::SafetensorsFile old(directory / formats::kSingleFileName);
    std::vector<formats::TensorDeclaration> declared;
    std::vector<std::span<const std::byte>> bytes;
    for (const formats::TensorEntry& entry : old.tensors()) {
      formats::TensorDeclaration tensor{entry.name, entry.dtype, entry.shape};
      if (!edit(tensor)) continue;
      declared.push_back(tensor);
      bytes.push_back(old.bytes(entry));
    }
    const fs::path path = scratch_ / "broken";
    fs::create_directories(path);
    fs::copy_file(directory / "config.json", path / "config.json", fs::copy_options::overwrite_existing);
    formats::SafetensorsWriter writer(path / formats::kSingleFileName, declared);
    for (size_t i = 0; i < declared.size(); ++i) writer.write(declared[i].name, bytes[i]);
    writer.commit();
    ConvertOptions options;
    options.dtype = "bf16";
    try {
      convert_checkpoint(path, scratch_ / "from-broken", options);
    } catch (const CheckpointError& e) {
      return e.what();
    }
    return "not refused";
  };
  const std::string module = "model.layers.0.mlp.up_proj.";
  EXPECT_THAT(fault_of([&](auto& tensor) { return tensor.name != module + "weight_scale"; }),
              HasSubstr(module + "weight_scale"));
  EXPECT_THAT(fault_of([&](auto& tensor) { return tensor.name != module + "weight_shape"; }),
              HasSubstr(module + "weight_shape"));
  EXPECT_THAT(fault_of([&](auto& tensor) {
                if (tensor.name == module + "weight_packed") tensor.shape = {704 * 5, 4};
                return true;
              }),
              HasSubstr(module + "weight_shape says [704, 160]"));
  EXPECT_THAT(fault_of([&](auto& tensor) {
                if (tensor.name == module + "weight_scale") tensor.shape = {5, 704};
                return true;
              }),
              HasSubstr(module + "weight_scale"));
  EXPECT_THAT(fault_of([&](auto& tensor) {
                if (tensor.name == module + "weight_shape") tensor.name = module + "weight_zero_point";
                return true;
              }),
              HasSubstr(module + "weight_zero_point"));
  EXPECT_EQ(fault_of([&](auto&) { return true; }), "not refused");
}

// Matrices compressed and decompressed by the package (make_int_fixture.py).
TEST(QuantizedInts, as_compressed_tensors_has_them) {
  const fs::path path = fs::path(FATHOM_SOURCE_DIR) / "tests/checkpoint/int_fixture.safetensors";
  const auto reader = std::make_shared<const formats::ShardedReader>(path);
  for (const std::string name : {"int4_bf16", "int4_f32", "int4_channel", "int8_bf16", "int8_f32"}) {
    const TensorView theirs = stored_view(reader, name + ".weight");
    const auto& expected = reader->at(name + ".values.weight");
    ASSERT_EQ(theirs.shape, expected.entry->shape) << name;
    ASSERT_EQ(theirs.dtype, expected.entry->dtype) << name;
    std::vector<std::byte> values(expected.bytes().size());
    theirs.read(0, theirs.numel(), theirs.dtype, values.data());
    EXPECT_TRUE(same_bytes(values, expected.bytes())) << name;

    // Ours: the same scales (int4), the same codes where their division is as exact as ours, the same layout.
    TensorView source = stored_view(reader, name + ".source.weight");
    source.name = "w.weight";
    const bool is_packed = name.starts_with("int4");
    const config::IntWeights weights =
        is_packed ? config::int4_weights(find_stored_ints(*reader, name + ".weight")->weights.group_size)
                  : config::kW8A8;
    const test::ScratchDirectory scratch;
    const Dtype dtype = source.dtype;
    write_saved_file(scratch.path(),
                     {"model.safetensors", quantized_ints(std::move(source), IntFormat{weights, dtype}), {}});
    const formats::ShardedReader ours(scratch.path() / "model.safetensors");
    for (const std::string& part : int_part_names("weight", is_packed)) {
      const auto& a = ours.at("w." + part);
      const auto& b = reader->at(name + "." + part);
      EXPECT_EQ(a.entry->dtype, b.entry->dtype) << name << part;
      EXPECT_EQ(a.entry->shape, b.entry->shape) << name << part;
      const bool is_free = !is_packed || (part == "weight_packed" && dtype != Dtype::F32);
      EXPECT_TRUE(is_free || same_bytes(a.bytes(), b.bytes())) << name << " " << part;
    }
  }
}

}  // namespace
}  // namespace fathom::checkpoint
