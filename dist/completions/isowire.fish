# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_isowire_global_optspecs
    string join \n h/help V/version
end

function __fish_isowire_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_isowire_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_isowire_using_subcommand
    set -l cmd (__fish_isowire_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c isowire -n "__fish_isowire_needs_command" -s h -l help -d 'Print help'
complete -c isowire -n "__fish_isowire_needs_command" -s V -l version -d 'Print version'
complete -c isowire -n "__fish_isowire_needs_command" -f -a "serve" -d 'Serve ISOs to machines that boot from the network'
complete -c isowire -n "__fish_isowire_needs_command" -f -a "inspect" -d 'Show what an ISO contains and how it can boot'
complete -c isowire -n "__fish_isowire_needs_command" -f -a "check" -d 'Run a client against every service on loopback and verify every byte'
complete -c isowire -n "__fish_isowire_needs_command" -f -a "status" -d 'Show the machines that boot from a running server'
complete -c isowire -n "__fish_isowire_needs_command" -f -a "next" -d 'Say what a machine boots next: an image once, or its local disk'
complete -c isowire -n "__fish_isowire_needs_command" -f -a "drain" -d 'Leave new machines to the other servers, and wait until the last one has left'
complete -c isowire -n "__fish_isowire_needs_command" -f -a "doctor" -d 'Find out what keeps machines from booting from this host, and how to mend it'
complete -c isowire -n "__fish_isowire_needs_command" -f -a "secure-boot" -d 'Make a key and a certificate for Secure Boot: `isowire secure-boot new DIR`'
complete -c isowire -n "__fish_isowire_needs_command" -f -a "completions" -d 'Print the completions of a shell'
complete -c isowire -n "__fish_isowire_needs_command" -f -a "man" -d 'Print the manual page, in the format of man(7)'
complete -c isowire -n "__fish_isowire_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c isowire -n "__fish_isowire_using_subcommand serve" -s c -l config -d 'Read settings from this file' -r -F
complete -c isowire -n "__fish_isowire_using_subcommand serve" -s i -l interface -d 'Answer DHCP on this network interface only [default: all]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l bind -d 'Listen on this IPv4 address only [default: 0.0.0.0]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l allow -d 'Admit only clients of these networks, each like 192.168.1.0/24 or 192.168.1.10 [default: all]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l advertise -d 'Address or base URL of this host to tell machines [default: the address that a request reached]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l nbd -d 'Port of NBD [default: 10809]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l nfs -d 'Port of NFS (version 3) and MOUNT [default: 2049]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l portmap -d 'Port of the portmapper, by which machines find NFS [default: 111]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l http -d 'Port of HTTP [default: 80, else 8080]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l tftp -d 'Port of TFTP [default: 69]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l dhcp -d 'Role in DHCP [default: proxy]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l dhcp-range -d 'Addresses to lease; implies --dhcp server' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l peers -d 'Servers that share the machines of the network, this one among them: addresses, each like 10.0.0.2, or 10.0.0.2=3 for three times as many machines' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l root -d 'Root protocol of the first menu entry [default: the first that is served]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l copytoram -d 'Copy root file systems into the memory of machines [default: auto]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l menu-timeout -d 'Time until the first menu entry boots by itself; 0 waits for ever [default: 10]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l uefi -d 'Program for UEFI machines: composed of kernel and initramfs, or iPXE [default: composed]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l ipxe -d 'iPXE for UEFI machines, a snponly.efi or ipxe.efi [default: the one on this host]' -r -F
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l stub -d 'EFI stub of systemd to boot UEFI machines with [default: the one in the image]' -r -F
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l secure-boot-key -d 'Key to sign boot programs for UEFI with, so that they boot with Secure Boot' -r -F
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l secure-boot-certificate -d 'Certificate of that key' -r -F
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l verify-certificate -d 'Certificate that root file systems have to be signed by; implies --verify' -r -F
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l cache-dir -d 'Directory of what was fetched from object stores [default: the user\'s cache directory]' -r -f -a "(__fish_complete_directories)"
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l cache-size -d 'Bytes that this directory may take, such as 20G [default: 20G]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l stall-timeout -d 'Time for which clients wait for a disk that fails or hangs [default: 10m]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l status -d 'Serve the status by HTTP on this address, on its local socket only, or not at all [default: 127.0.0.1:8081 if free]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l sandbox -d 'Confine the server after its start to the files and system calls that it needs [default: auto]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l user -d 'User to become after the start, if isowire is started as root [default: nobody]' -r -f -a "(__fish_complete_users)"
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l log-format -d 'Format of the log on standard error [default: text]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l takeover -d 'Take over from the isowire that runs, without a dropped client'
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l wait-interface -d 'Start without that interface and wait for it'
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l tftp-single-port -d 'Send files from the TFTP port itself, for firewalls that do not track TFTP'
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l router-advertisement -d 'Tell booting machines that there is no IPv6 router, so that iPXE does not wait for one'
complete -c isowire -n "__fish_isowire_using_subcommand serve" -l verify -d 'Verify images before they are offered, by the checksum of their root file system'
complete -c isowire -n "__fish_isowire_using_subcommand serve" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c isowire -n "__fish_isowire_using_subcommand inspect" -l secure-boot-certificate -d 'Certificate of the key that `serve` is to sign boot programs with' -r -F
complete -c isowire -n "__fish_isowire_using_subcommand inspect" -l json -d 'Print JSON for a program to read'
complete -c isowire -n "__fish_isowire_using_subcommand inspect" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c isowire -n "__fish_isowire_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c isowire -n "__fish_isowire_using_subcommand status" -l json -d 'Print JSON for a program to read'
complete -c isowire -n "__fish_isowire_using_subcommand status" -l watch -d 'Repeat every second until interrupted'
complete -c isowire -n "__fish_isowire_using_subcommand status" -l known-hosts -d 'Print the host keys of machines whose system is up, as lines of SSH\'s `known_hosts`'
complete -c isowire -n "__fish_isowire_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c isowire -n "__fish_isowire_using_subcommand next" -l socket -d 'Socket of the server [default: that of this user\'s server, else of this host\'s]' -r -F
complete -c isowire -n "__fish_isowire_using_subcommand next" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c isowire -n "__fish_isowire_using_subcommand drain" -l socket -d 'Socket of the server [default: that of this user\'s server, else of this host\'s]' -r -F
complete -c isowire -n "__fish_isowire_using_subcommand drain" -l no-wait -d 'Do not wait'
complete -c isowire -n "__fish_isowire_using_subcommand drain" -l end -d 'Take new machines again'
complete -c isowire -n "__fish_isowire_using_subcommand drain" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -s c -l config -d 'Read settings from this file' -r -F
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -s i -l interface -d 'Answer DHCP on this network interface only [default: all]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l bind -d 'Listen on this IPv4 address only [default: 0.0.0.0]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l allow -d 'Admit only clients of these networks, each like 192.168.1.0/24 or 192.168.1.10 [default: all]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l advertise -d 'Address or base URL of this host to tell machines [default: the address that a request reached]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l nbd -d 'Port of NBD [default: 10809]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l nfs -d 'Port of NFS (version 3) and MOUNT [default: 2049]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l portmap -d 'Port of the portmapper, by which machines find NFS [default: 111]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l http -d 'Port of HTTP [default: 80, else 8080]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l tftp -d 'Port of TFTP [default: 69]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l dhcp -d 'Role in DHCP [default: proxy]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l dhcp-range -d 'Addresses to lease; implies --dhcp server' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l peers -d 'Servers that share the machines of the network, this one among them: addresses, each like 10.0.0.2, or 10.0.0.2=3 for three times as many machines' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l root -d 'Root protocol of the first menu entry [default: the first that is served]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l copytoram -d 'Copy root file systems into the memory of machines [default: auto]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l menu-timeout -d 'Time until the first menu entry boots by itself; 0 waits for ever [default: 10]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l uefi -d 'Program for UEFI machines: composed of kernel and initramfs, or iPXE [default: composed]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l ipxe -d 'iPXE for UEFI machines, a snponly.efi or ipxe.efi [default: the one on this host]' -r -F
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l stub -d 'EFI stub of systemd to boot UEFI machines with [default: the one in the image]' -r -F
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l secure-boot-key -d 'Key to sign boot programs for UEFI with, so that they boot with Secure Boot' -r -F
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l secure-boot-certificate -d 'Certificate of that key' -r -F
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l verify-certificate -d 'Certificate that root file systems have to be signed by; implies --verify' -r -F
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l cache-dir -d 'Directory of what was fetched from object stores [default: the user\'s cache directory]' -r -f -a "(__fish_complete_directories)"
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l cache-size -d 'Bytes that this directory may take, such as 20G [default: 20G]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l stall-timeout -d 'Time for which clients wait for a disk that fails or hangs [default: 10m]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l status -d 'Serve the status by HTTP on this address, on its local socket only, or not at all [default: 127.0.0.1:8081 if free]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l sandbox -d 'Confine the server after its start to the files and system calls that it needs [default: auto]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l user -d 'User to become after the start, if isowire is started as root [default: nobody]' -r -f -a "(__fish_complete_users)"
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l log-format -d 'Format of the log on standard error [default: text]' -r -f
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l takeover -d 'Take over from the isowire that runs, without a dropped client'
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l wait-interface -d 'Start without that interface and wait for it'
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l tftp-single-port -d 'Send files from the TFTP port itself, for firewalls that do not track TFTP'
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l router-advertisement -d 'Tell booting machines that there is no IPv6 router, so that iPXE does not wait for one'
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l verify -d 'Verify images before they are offered, by the checksum of their root file system'
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -l json -d 'Print JSON for a program to read'
complete -c isowire -n "__fish_isowire_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c isowire -n "__fish_isowire_using_subcommand secure-boot; and not __fish_seen_subcommand_from new help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c isowire -n "__fish_isowire_using_subcommand secure-boot; and not __fish_seen_subcommand_from new help" -f -a "new" -d 'Make a key and its certificate'
complete -c isowire -n "__fish_isowire_using_subcommand secure-boot; and not __fish_seen_subcommand_from new help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c isowire -n "__fish_isowire_using_subcommand secure-boot; and __fish_seen_subcommand_from new" -s h -l help -d 'Print help'
complete -c isowire -n "__fish_isowire_using_subcommand secure-boot; and __fish_seen_subcommand_from help" -f -a "new" -d 'Make a key and its certificate'
complete -c isowire -n "__fish_isowire_using_subcommand secure-boot; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c isowire -n "__fish_isowire_using_subcommand completions" -s h -l help -d 'Print help'
complete -c isowire -n "__fish_isowire_using_subcommand man" -s h -l help -d 'Print help'
complete -c isowire -n "__fish_isowire_using_subcommand help; and not __fish_seen_subcommand_from serve inspect check status next drain doctor secure-boot completions man help" -f -a "serve" -d 'Serve ISOs to machines that boot from the network'
complete -c isowire -n "__fish_isowire_using_subcommand help; and not __fish_seen_subcommand_from serve inspect check status next drain doctor secure-boot completions man help" -f -a "inspect" -d 'Show what an ISO contains and how it can boot'
complete -c isowire -n "__fish_isowire_using_subcommand help; and not __fish_seen_subcommand_from serve inspect check status next drain doctor secure-boot completions man help" -f -a "check" -d 'Run a client against every service on loopback and verify every byte'
complete -c isowire -n "__fish_isowire_using_subcommand help; and not __fish_seen_subcommand_from serve inspect check status next drain doctor secure-boot completions man help" -f -a "status" -d 'Show the machines that boot from a running server'
complete -c isowire -n "__fish_isowire_using_subcommand help; and not __fish_seen_subcommand_from serve inspect check status next drain doctor secure-boot completions man help" -f -a "next" -d 'Say what a machine boots next: an image once, or its local disk'
complete -c isowire -n "__fish_isowire_using_subcommand help; and not __fish_seen_subcommand_from serve inspect check status next drain doctor secure-boot completions man help" -f -a "drain" -d 'Leave new machines to the other servers, and wait until the last one has left'
complete -c isowire -n "__fish_isowire_using_subcommand help; and not __fish_seen_subcommand_from serve inspect check status next drain doctor secure-boot completions man help" -f -a "doctor" -d 'Find out what keeps machines from booting from this host, and how to mend it'
complete -c isowire -n "__fish_isowire_using_subcommand help; and not __fish_seen_subcommand_from serve inspect check status next drain doctor secure-boot completions man help" -f -a "secure-boot" -d 'Make a key and a certificate for Secure Boot: `isowire secure-boot new DIR`'
complete -c isowire -n "__fish_isowire_using_subcommand help; and not __fish_seen_subcommand_from serve inspect check status next drain doctor secure-boot completions man help" -f -a "completions" -d 'Print the completions of a shell'
complete -c isowire -n "__fish_isowire_using_subcommand help; and not __fish_seen_subcommand_from serve inspect check status next drain doctor secure-boot completions man help" -f -a "man" -d 'Print the manual page, in the format of man(7)'
complete -c isowire -n "__fish_isowire_using_subcommand help; and not __fish_seen_subcommand_from serve inspect check status next drain doctor secure-boot completions man help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c isowire -n "__fish_isowire_using_subcommand help; and __fish_seen_subcommand_from secure-boot" -f -a "new" -d 'Make a key and its certificate'
