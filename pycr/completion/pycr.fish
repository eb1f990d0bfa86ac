# SPDX-License-Identifier: GPL-2.0-or-later
# Completion of pycr for fish. pycr itself says what can stand at the cursor.

function __pycr_complete
    set -l words (commandline -opc) (commandline -ct)
    command $words[1] --complete fish $words[2..-1] 2>/dev/null
end

complete -c pycr -f -a '(__pycr_complete)'
