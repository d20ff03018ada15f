# LibTorch from a PyTorch package directory: the wheel under .deps, or any PyTorch >= 2.9 by -DFATHOM_TORCH=PATH.
# We link libtorch_cpu and libc10 only; a CUDA build of PyTorch adds its CUDA libraries.
if(FATHOM_TORCH)
  set(TORCH_DIR ${FATHOM_TORCH})
else()
  set(TORCH_DIR ${CMAKE_SOURCE_DIR}/.deps/python/torch)
endif()
if(NOT EXISTS ${TORCH_DIR}/include/ATen/ATen.h)
  message(FATAL_ERROR "no PyTorch at ${TORCH_DIR} (include/ATen/ATen.h is missing): run ./run setup, "
                      "or give the package directory with -DFATHOM_TORCH=PATH")
endif()

# fmt is the wheel's own, header-only: a second fmt in the process is a trap.
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/third_party)
file(CREATE_LINK ${TORCH_DIR}/include/fmt ${CMAKE_BINARY_DIR}/third_party/fmt SYMBOLIC)
add_library(fmt_headers INTERFACE)
target_include_directories(fmt_headers SYSTEM INTERFACE ${CMAKE_BINARY_DIR}/third_party)
target_compile_definitions(fmt_headers INTERFACE FMT_HEADER_ONLY=1)

add_library(torch_cpu INTERFACE)
target_include_directories(torch_cpu SYSTEM INTERFACE
  ${TORCH_DIR}/include ${TORCH_DIR}/include/torch/csrc/api/include)
target_link_libraries(torch_cpu INTERFACE ${TORCH_DIR}/lib/libtorch_cpu.so ${TORCH_DIR}/lib/libc10.so)
if(EXISTS ${TORCH_DIR}/lib/libtorch_cuda.so)
  option(FATHOM_CUDA "Link the CUDA libraries of this PyTorch (compiles; untested on a GPU)" OFF)
  if(FATHOM_CUDA)
    target_link_libraries(torch_cpu INTERFACE -Wl,--no-as-needed ${TORCH_DIR}/lib/libtorch_cuda.so
                          ${TORCH_DIR}/lib/libc10_cuda.so)
  endif()
endif()
# libtorch_cpu needs libcudart and libcupti even on a machine without a GPU; they come as wheels beside it.
get_filename_component(site_packages ${TORCH_DIR} DIRECTORY)
file(GLOB cuda_lib_dirs ${site_packages}/nvidia/*/lib)
set(CMAKE_BUILD_RPATH ${TORCH_DIR}/lib ${cuda_lib_dirs})
list(TRANSFORM cuda_lib_dirs PREPEND "-Wl,-rpath-link," OUTPUT_VARIABLE rpath_links)
target_link_options(torch_cpu INTERFACE ${rpath_links} -Wl,-rpath-link,${TORCH_DIR}/lib -Wl,--disable-new-dtags)
