#include "base/stop_signal.h"

#include <unistd.h>

#include <csignal>

namespace fathom {
namespace {

volatile std::sig_atomic_t received = 0;

extern "C" void on_stop_signal(int number) {
  if (received != 0) _exit(128 + number);
  received = number;
}

}  // namespace

void install_stop_signals() {
  struct sigaction action {};
  action.sa_handler = on_stop_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool stop_requested() { return received != 0; }
int stop_signal_number() { return received; }

}  // namespace fathom
