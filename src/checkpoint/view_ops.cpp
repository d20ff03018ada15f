#include "checkpoint/view_ops.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "base/error.h"

namespace fathom::checkpoint {
namespace {

using formats::Dtype;

constexpr int64_t kPanelElements = 1 << 20;
constexpr int64_t kPanelColumns = 256;  // more gain nothing: a row of a panel is some cache lines already
constexpr int64_t kTile = 32;           // rows and columns transposed at a time, within the innermost cache

size_t size_of(Dtype dtype) { return static_cast<size_t>(formats::dtype_bits(dtype) / 8); }

int64_t product(const std::vector<int64_t>& shape) {
  int64_t result = 1;
  for (const int64_t extent : shape) result *= extent;
  return result;
}

bool is_matrix(const TensorView& view) { return view.shape.size() == 2; }

// What holds the values of both without loss.
Dtype common(Dtype a, Dtype b) {
  if (a == b) return a;
  return a == Dtype::F64 || b == Dtype::F64 ? Dtype::F64 : Dtype::F32;
}

// Memory of this thread that outlives a call, one buffer for each level of calls within calls.
class Scratch {
 public:
  explicit Scratch(size_t bytes) {
    if (buffers().size() == level()) buffers().emplace_back();
    std::vector<std::byte>& buffer = buffers()[level()++];
    if (buffer.size() < bytes) buffer.resize(bytes);
    data_ = buffer.data();
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { --level(); }
  std::byte* data() const { return data_; }

 private:
  static std::vector<std::vector<std::byte>>& buffers() {
    thread_local std::vector<std::vector<std::byte>> list;
    return list;
  }
  static size_t& level() {
    thread_local size_t depth = 0;
    return depth;
  }
  std::byte* data_;
};

// out[column][row] = in[row][column].
template <typename T>
void transpose(const std::byte* in_bytes, int64_t rows, int64_t columns, std::byte* out_bytes) {
  for (int64_t column = 0; column < columns; column += kTile) {
    const int64_t last_column = std::min(columns, column + kTile);
    for (int64_t row = 0; row < rows; row += kTile) {
      const int64_t last_row = std::min(rows, row + kTile);
      for (int64_t c = column; c < last_column; ++c)
        for (int64_t r = row; r < last_row; ++r)
          std::memcpy(out_bytes + static_cast<size_t>(c * rows + r) * sizeof(T),
                      in_bytes + static_cast<size_t>(r * columns + c) * sizeof(T), sizeof(T));
    }
  }
}

struct Parts {
  std::vector<TensorView> views;
  std::vector<int64_t> ends;  // of each, in elements of the whole
};

void read_parts(const Parts& parts, int64_t begin, int64_t count, Dtype as, std::byte* out) {
  auto i =
      static_cast<size_t>(std::upper_bound(parts.ends.begin(), parts.ends.end(), begin) - parts.ends.begin());
  for (int64_t at = begin, last = begin + count; at < last; ++i) {
    const int64_t first = i == 0 ? 0 : parts.ends[i - 1], end = std::min(last, parts.ends[i]);
    if (end == at) continue;  // an empty part
    parts.views[i].read(at - first, end - at, as, out + static_cast<size_t>(at - begin) * size_of(as));
    at = end;
  }
}

}  // namespace

void transpose(const std::byte* in, int64_t rows, int64_t columns, size_t element_size, std::byte* out) {
  switch (element_size) {
    case 1:
      return transpose<uint8_t>(in, rows, columns, out);
    case 2:
      return transpose<uint16_t>(in, rows, columns, out);
    case 4:
      return transpose<uint32_t>(in, rows, columns, out);
    default:
      return transpose<uint64_t>(in, rows, columns, out);
  }
}

void read_block(const TensorView& matrix, const Block& block, Dtype as, std::byte* out) {
  if (block.rows == 0 || block.columns == 0) return;
  if (matrix.read_block)
    return matrix.read_block(block.row, block.rows, block.column, block.columns, as, out);
  const int64_t width = matrix.shape[1];
  if (block.columns == width) return matrix.read(block.row * width, block.rows * width, as, out);
  for (int64_t i = 0; i < block.rows; ++i)
    matrix.read((block.row + i) * width + block.column, block.columns, as,
                out + static_cast<size_t>(i * block.columns) * size_of(as));
}

TensorView reshaped(TensorView view, std::vector<int64_t> shape) {
  FATHOM_ASSERT(product(shape) == view.numel());
  if (shape == view.shape) return view;
  view.shape = std::move(shape);
  view.read_block = nullptr;
  return view;
}

TensorView slice(const TensorView& view, int64_t begin, std::vector<int64_t> shape) {
  FATHOM_ASSERT(begin >= 0 && begin + product(shape) <= view.numel());
  if (begin == 0 && shape == view.shape) return view;
  TensorView result = view;
  result.shape = std::move(shape);
  result.read = [read = view.read, begin](int64_t first, int64_t count, Dtype as, std::byte* out) {
    read(begin + first, count, as, out);
  };
  result.read_block = nullptr;
  const bool is_rows = is_matrix(view) && is_matrix(result) && view.shape[1] == result.shape[1] &&
                       view.shape[1] > 0 && begin % view.shape[1] == 0;
  if (is_rows && view.read_block)
    result.read_block = [inner = view.read_block, skipped = begin / view.shape[1]](
                            int64_t row, int64_t rows, int64_t column, int64_t columns, Dtype as,
                            std::byte* out) { inner(skipped + row, rows, column, columns, as, out); };
  return result;
}

TensorView concatenated(std::vector<TensorView> views, std::vector<int64_t> shape) {
  FATHOM_ASSERT(!views.empty());
  if (views.size() == 1) return reshaped(std::move(views.front()), std::move(shape));
  TensorView result = views.front();
  result.shape = std::move(shape);
  result.read_block = nullptr;
  const auto parts = std::make_shared<Parts>();
  bool is_rows = is_matrix(result), has_blocks = false;
  int64_t end = 0;
  for (const TensorView& view : views) {
    result.dtype = common(result.dtype, view.dtype);
    result.granule = std::max(result.granule, view.granule);
    is_rows = is_rows && is_matrix(view) && view.shape[1] == result.shape[1];
    has_blocks = has_blocks || view.read_block;
    parts->ends.push_back(end += view.numel());
  }
  FATHOM_ASSERT(end == result.numel());
  result.stored = result.dtype;  // not what lies in a file as it is
  parts->views = std::move(views);
  result.read = [parts](int64_t begin, int64_t count, Dtype as, std::byte* out) {
    read_parts(*parts, begin, count, as, out);
  };
  if (is_rows && has_blocks)
    result.read_block = [parts](int64_t row, int64_t rows, int64_t column, int64_t columns, Dtype as,
                                std::byte* out) {
      int64_t first = 0;  // row of the part
      for (const TensorView& view : parts->views) {
        const int64_t from = std::max(row, first), to = std::min(row + rows, first + view.shape[0]);
        if (from < to)
          read_block(view, {from - first, to - from, column, columns}, as,
                     out + static_cast<size_t>((from - row) * columns) * size_of(as));
        first += view.shape[0];
      }
    };
  return result;
}

TensorView transposed(TensorView matrix) {
  FATHOM_ASSERT(is_matrix(matrix));
  const int64_t rows = matrix.shape[0], columns = matrix.shape[1];
  TensorView result = matrix;
  result.shape = {columns, rows};
  const int64_t panel = std::clamp<int64_t>(kPanelElements / std::max<int64_t>(rows, 1), 1, kPanelColumns);
  result.granule = std::max(matrix.granule, rows * panel);
  const auto source = std::make_shared<const TensorView>(std::move(matrix));
  // Rows of the result are columns of the source.
  const auto read_part = [source](int64_t row, int64_t count, int64_t column, int64_t width, Dtype as,
                                  std::byte* out) {
    const Scratch panel_memory(static_cast<size_t>(count * width) * size_of(as));
    read_block(*source, {column, width, row, count}, as, panel_memory.data());
    transpose(panel_memory.data(), width, count, size_of(as), out);
  };
  result.read_block = [read_part, panel](int64_t row, int64_t count, int64_t column, int64_t width, Dtype as,
                                         std::byte* out) {
    for (int64_t done = 0; done < count; done += panel) {
      const int64_t part = std::min(panel, count - done);
      read_part(row + done, part, column, width, as, out + static_cast<size_t>(done * width) * size_of(as));
    }
  };
  result.read = [read_part, panel, rows](int64_t begin, int64_t count, Dtype as, std::byte* out) {
    for (int64_t i = begin, last = begin + count; i < last;) {
      const int64_t row = i / rows, column = i % rows;
      std::byte* to = out + static_cast<size_t>(i - begin) * size_of(as);
      // A part of one row, else as many whole ones as a panel holds.
      const int64_t whole = column == 0 ? std::min(panel, (last - i) / rows) : 0;
      const int64_t width = whole > 0 ? rows : std::min(rows - column, last - i);
      read_part(row, std::max<int64_t>(whole, 1), column, width, as, to);
      i += std::max<int64_t>(whole, 1) * width;
    }
  };
  return result;
}

}  // namespace fathom::checkpoint
