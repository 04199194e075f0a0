#include "runtime/amx.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastrnn {

#if defined(__x86_64__) && defined(__linux__)

namespace {

bool processor_has_amx() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned bfloat16 = 1u << 22, tile = 1u << 24, int8 = 1u << 25, needed = bfloat16 | tile | int8;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (edx & needed) != needed) return false;
  constexpr unsigned osxsave = 1u << 27;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & osxsave)) return false;
  // What the system saves at a switch of contexts: configuration and contents of the tiles.
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned tiles = 1u << 17 | 1u << 18;
  return (low & tiles) == tiles;
}

// https://docs.kernel.org/arch/x86/xstate.html
bool system_permits_amx() {
  constexpr long request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

}  // namespace

bool amx_is_usable() {
  static const bool usable = processor_has_amx() && system_permits_amx();
  return usable;
}

#else

bool amx_is_usable() { return false; }

#endif

}  // namespace fastrnn
