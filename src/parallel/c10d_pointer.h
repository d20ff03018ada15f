// c10d's counted pointers behind std::shared_ptr, which works with incomplete types: its headers stay in few files.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <memory>
#include <utility>

namespace fathom::parallel {

template <typename Base, typename T>
std::shared_ptr<Base> as_shared(c10::intrusive_ptr<T> pointer) {
  Base* const raw = pointer.get();
  return {raw, [pointer = std::move(pointer)](Base*) mutable { pointer.reset(); }};
}

template <typename T>
c10::intrusive_ptr<T> as_intrusive(const std::shared_ptr<T>& pointer) {
  return c10::intrusive_ptr<T>::unsafe_reclaim_from_nonowning(pointer.get());
}

}  // namespace fathom::parallel
