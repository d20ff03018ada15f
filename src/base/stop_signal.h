// SIGINT and SIGTERM set a flag that long loops look at between whole steps; a second signal ends the process.
#pragma once

namespace fathom {

void install_stop_signals();
bool stop_requested();
int stop_signal_number();  // 0 when none came

}  // namespace fathom
