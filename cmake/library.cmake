# fathom_library(NAME [TORCH] [LINKS ...]): the static library fathom_NAME from src/NAME/*.cpp.
function(fathom_library name)
  cmake_parse_arguments(arg "TORCH" "" "LINKS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cpp)
  if(sources)
    add_library(fathom_${name} STATIC ${sources})
    set(scope PUBLIC)
    target_link_libraries(fathom_${name} PRIVATE fathom_warnings)
  else()
    add_library(fathom_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_include_directories(fathom_${name} ${scope} ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(fathom_${name} ${scope} ${arg_LINKS} Threads::Threads)
  if(arg_TORCH)
    target_link_libraries(fathom_${name} ${scope} torch_cpu)
    if(sources)
      # Parsing LibTorch's headers is most of a file's compile time: they are parsed once, for all these libraries.
      if(TARGET fathom_ops AND NOT name STREQUAL ops)
        target_precompile_headers(fathom_${name} REUSE_FROM fathom_ops)
      else()
        target_precompile_headers(fathom_${name} PRIVATE <ATen/core/Tensor.h> <ATen/TensorOperators.h>
                                  <torch/csrc/autograd/custom_function.h> <fmt/format.h> <map> <string> <vector>)
      endif()
    endif()
  endif()
endfunction()

# GCC 12 takes the deliberately undefined operands of its own AVX-512 header for uninitialised ones (its bug 105593).
set(FATHOM_AVX512_FLAGS
  "-O3;-mavx2;-mfma;-mf16c;-mbmi2;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx512bf16;-mavx512vnni;-ffp-contract=fast;-mprefer-vector-width=512;-Wno-uninitialized;$<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>")

# The kernels: one static library; each instruction set is compiled with its own flags, chosen at run time.
function(fathom_kernel_library)
  file(GLOB portable CONFIGURE_DEPENDS src/kernels/*.cpp src/kernels/reference/*.cpp src/kernels/cpu/*.cpp)
  file(GLOB avx2 CONFIGURE_DEPENDS src/kernels/cpu/avx2/*.cpp)
  file(GLOB avx512 CONFIGURE_DEPENDS src/kernels/cpu/avx512/*.cpp)
  file(GLOB amx CONFIGURE_DEPENDS src/kernels/cpu/amx/*.cpp)
  set_source_files_properties(${avx2} PROPERTIES COMPILE_OPTIONS
    "-O3;-mavx2;-mfma;-mf16c;-mbmi2;-ffp-contract=fast;-mtune=haswell")
  set_source_files_properties(${avx512} PROPERTIES COMPILE_OPTIONS "${FATHOM_AVX512_FLAGS}")
  set_source_files_properties(${amx} PROPERTIES COMPILE_OPTIONS "${FATHOM_AVX512_FLAGS};-mamx-tile;-mamx-bf16;-mamx-int8")
  add_library(fathom_kernels STATIC ${portable} ${avx2} ${avx512} ${amx})
  target_include_directories(fathom_kernels PUBLIC src)
  target_link_libraries(fathom_kernels PRIVATE fathom_warnings PUBLIC fathom_base)
endfunction()
