#include "config/tensor_table.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>

#include "base/error.h"

namespace fathom::config {
namespace {

const std::filesystem::path kData = std::filesystem::path(FATHOM_SOURCE_DIR) / "tests/config/data";

struct Row {
  std::string dtype;
  std::vector<int64_t> shape;
};

// Expands "a.0-2.b" to a.0.b, a.1.b, a.2.b, for every range in the name.
void expand(const std::string& pattern, const Row& row, std::map<std::string, Row>& out) {
  for (size_t begin = 0; begin < pattern.size();) {
    const size_t end = std::min(pattern.find('.', begin), pattern.size());
    const std::string part = pattern.substr(begin, end - begin);
    const size_t dash = part.find('-');
    if (dash != std::string::npos && part.find_first_not_of("0123456789-") == std::string::npos) {
      for (int i = std::stoi(part.substr(0, dash)); i <= std::stoi(part.substr(dash + 1)); ++i)
        expand(pattern.substr(0, begin) + std::to_string(i) + pattern.substr(end), row, out);
      return;
    }
    begin = end + 1;
  }
  out[pattern] = row;
}

std::map<std::string, Row> released_tensors() {
  std::ifstream file(kData / "deepseek-r1-tensors.tsv");
  std::map<std::string, Row> tensors;
  std::string line;
  std::getline(file, line);
  while (std::getline(file, line)) {
    std::istringstream fields(line);
    std::string name, dtype, shape, extent;
    std::getline(fields, name, '\t');
    std::getline(fields, dtype, '\t');
    std::getline(fields, shape, '\t');
    Row row{dtype, {}};
    std::istringstream extents(shape);
    while (std::getline(extents, extent, ',')) row.shape.push_back(std::stoll(extent));
    expand(name, row, tensors);
  }
  return tensors;
}

TEST(TensorTable, R1_has_exactly_the_tensors_that_its_config_implies) {
  std::map<std::string, Row> released = released_tensors();
  ASSERT_EQ(released.size(), 91991U);
  const ModelConfig config = read_model_config(kData / "deepseek-r1.json");
  const TensorTable table(config);
  int64_t elements = 0;
  const auto take = [&](const std::string& name, const std::string& dtype,
                        const std::vector<int64_t>& shape) {
    const auto row = released.find(name);
    ASSERT_NE(row, released.end()) << name;
    ASSERT_EQ(row->second.dtype, dtype) << name;
    ASSERT_EQ(row->second.shape, shape) << name;
    released.erase(row);
    int64_t numel = 1;
    for (const int64_t extent : shape) numel *= extent;
    elements += numel;
  };
  for (const TensorSpec& spec : table.tensors()) {
    take(spec.name, stored_dtype(spec, config), spec.shape);
    if (const auto scale = scale_shape(spec, config)) take(spec.name + "_scale_inv", "float32", *scale);
  }
  EXPECT_TRUE(released.empty()) << released.begin()->first;
  EXPECT_EQ(elements, 684'531'386'000);
}

TEST(TensorTable, counts_of_the_report) {
  const ParameterCounts v3 = count_parameters(read_model_config(kData / "deepseek-v3.json"));
  EXPECT_EQ(v3.trunk, 671'026'419'200);
  EXPECT_EQ(v3.mtp, 11'610'068'224);
  EXPECT_EQ(v3.activated, 37'552'297'472);
  EXPECT_EQ(v3.stored, v3.trunk + v3.mtp + 2 * int64_t{129280} * 7168);
  EXPECT_EQ(count_parameters(read_model_config(kData / "deepseek-v2-lite.json")).trunk, 15'706'484'224);
  EXPECT_EQ(count_parameters(read_model_config(kData / "moonlight.json")).mtp, 0);
}

TEST(TensorTable, WT_8_every_moe_layer_has_its_bias_and_v2_has_none) {
  const ModelConfig v3 = read_model_config(kData / "deepseek-v3.json");
  const TensorTable table(v3);
  int64_t biases = 0;
  for (const TensorSpec& spec : table.tensors()) {
    if (spec.role != TensorRole::router_bias) continue;
    ++biases;
    EXPECT_EQ(stored_dtype(spec, v3), "float32");
    EXPECT_FALSE(spec.is_decayed());
    EXPECT_FALSE(spec.is_initialized_normal());
  }
  EXPECT_EQ(biases, 59);  // 58 of the trunk and the MTP layer's

  const TensorTable v2(read_model_config(kData / "deepseek-v2-lite.json"));
  EXPECT_EQ(v2.find("model.layers.1.mlp.gate.e_score_correction_bias"), nullptr);
  ASSERT_NE(v2.find("model.layers.1.self_attn.q_proj.weight"), nullptr);
  EXPECT_EQ(v2.at("model.layers.1.self_attn.q_proj.weight").shape, (std::vector<int64_t>{3072, 2048}));
  EXPECT_EQ(v2.find("model.layers.1.self_attn.q_a_proj.weight"), nullptr);
  EXPECT_EQ(v2.at("model.layers.1.mlp.shared_experts.up_proj.weight").shape,
            (std::vector<int64_t>{2816, 2048}));
}

TEST(TensorTable, one_embedding_and_head_copy_for_each_mtp_module) {
  ModelConfig config = read_model_config(kData / "moonlight.json");
  config.num_nextn_predict_layers = 3;
  const TensorTable table(config);
  int64_t copies = 0;
  for (const TensorSpec& spec : table.tensors()) {
    if (spec.role != TensorRole::mtp_embedding && spec.role != TensorRole::mtp_head) continue;
    ++copies;
    EXPECT_EQ(spec.shape, (std::vector<int64_t>{163840, 2048}));
  }
  EXPECT_EQ(copies, 6);
  ASSERT_NE(table.find("model.layers.29.eh_proj.weight"), nullptr);
  EXPECT_EQ(table.find("model.layers.29.eh_proj.weight")->shape, (std::vector<int64_t>{2048, 4096}));
  EXPECT_EQ(table.find("model.layers.30.eh_proj.weight"), nullptr);
  EXPECT_EQ(table.find("model.layers.3.mlp.foo"), nullptr);
  EXPECT_THROW(table.at("model.layers.3.mlp.foo"), std::logic_error);
}

TEST(TensorTable, a_dense_model_has_no_router) {
  ModelConfig config = read_model_config(kData / "moonlight.json");
  config.n_routed_experts = 0;
  const TensorTable table(config);
  for (const TensorSpec& spec : table.tensors()) {
    EXPECT_NE(spec.role, TensorRole::router);
    EXPECT_NE(spec.role, TensorRole::routed_expert);
  }
}

TEST(TensorTable, an_absurd_number_of_tensors_is_refused) {
  ModelConfig config = read_model_config(kData / "moonlight.json");
  config.num_hidden_layers = 10000;
  config.n_routed_experts = 65536;
  EXPECT_THROW(TensorTable{config}, ConfigError);
}

}  // namespace
}  // namespace fathom::config
