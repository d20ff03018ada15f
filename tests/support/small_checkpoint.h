// A small random checkpoint with ragged fp8 blocks, dense and expert layers and MTP, and ways to spoil it.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "config/model_config.h"
#include "formats/sharded_safetensors.h"

namespace fathom::test {

// tiny.json with few words and a hidden size that 128 does not divide: 4 layers (the first dense), 16 experts in 4
// groups, one MTP layer.
inline config::ModelConfig small_model() {
  Json json = read_json_file(std::filesystem::path(FATHOM_SOURCE_DIR) / "configs/models/tiny.json");
  json["vocab_size"] = 40;
  json["hidden_size"] = 160;
  json["a_key_of_others"] = "kept";
  return config::parse_model_config(json, "tiny.json");
}

// The file with tensors changed: `edit` may rename, reshape or (returning false) leave one out. Added ones are zeros.
inline void rewrite_tensors(const std::filesystem::path& path,
                            const std::function<bool(formats::TensorDeclaration&)>& edit,
                            const std::vector<formats::TensorDeclaration>& added = {}) {
  const formats::SafetensorsFile old(path);
  std::vector<formats::TensorDeclaration> declared;
  std::vector<std::string> names;
  for (const formats::TensorEntry& entry : old.tensors()) {
    formats::TensorDeclaration tensor{entry.name, entry.dtype, entry.shape};
    if (!edit(tensor)) continue;
    names.push_back(entry.name);
    declared.push_back(tensor);
  }
  const size_t kept = declared.size();
  declared.insert(declared.end(), added.begin(), added.end());
  formats::SafetensorsWriter writer(path, declared);
  for (size_t i = 0; i < kept; ++i) writer.write(declared[i].name, old.bytes(names[i]));
  for (const auto& tensor : added)
    writer.write(tensor.name,
                 std::vector<std::byte>(formats::tensor_bytes(tensor.dtype, tensor.shape, tensor.name)));
  writer.commit();
}

}  // namespace fathom::test
