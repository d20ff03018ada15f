// Reading the fixtures under tests/golden: tensors by name, as ATen tensors.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>

#include <filesystem>
#include <string>

#include "base/error.h"
#include "formats/safetensors.h"

namespace fathom::test {

inline std::filesystem::path golden_directory(const std::string& name) {
  return std::filesystem::path(FATHOM_SOURCE_DIR) / "tests" / "golden" / name;
}

class Fixture {
 public:
  explicit Fixture(const std::filesystem::path& path) : file_(path) {}
  bool has(const std::string& name) const { return file_.find(name) != nullptr; }
  at::Tensor at(const std::string& name) const {
    const formats::TensorEntry& entry = file_.at(name);
    return ::at::from_blob(const_cast<std::byte*>(file_.bytes(entry).data()), entry.shape,
                           ::at::TensorOptions().dtype(dtype_of(entry.dtype)))
        .clone();
  }
  const formats::SafetensorsFile& file() const { return file_; }

 private:
  static ::at::ScalarType dtype_of(formats::Dtype dtype) {
    switch (dtype) {
      case formats::Dtype::F32:
        return ::at::kFloat;
      case formats::Dtype::F64:
        return ::at::kDouble;
      case formats::Dtype::BF16:
        return ::at::kBFloat16;
      case formats::Dtype::I64:
        return ::at::kLong;
      case formats::Dtype::I32:
        return ::at::kInt;
      case formats::Dtype::BOOL:
        return ::at::kBool;
      default:
        throw DataError("fixture dtype {} is not read here", formats::dtype_name(dtype));
    }
  }
  formats::SafetensorsFile file_;
};

}  // namespace fathom::test
