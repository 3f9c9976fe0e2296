// Runs children and checks their statuses; each leaves an orphan behind.
const { spawn } = require('child_process')
const { createHash, pbkdf2 } = require('crypto')
const hash = () => createHash('sha256').update('x'.repeat(100000)).digest('hex')
const right = hash()
let key
const run = number => {
  const child = spawn('sh', ['-c', `sleep 0 & exit ${number % 100}`], { stdio: 'ignore' })
  child.on('error', error => console.log('fault', number, error.message))
  child.on('exit', status => {
    if (status !== number % 100 || hash() !== right) console.log('fault', number, status)
    // In a thread of the pool.
    pbkdf2('a', 'b', 100, 32, 'sha256', (error, made) => {
      key = key || made.toString('hex')
      if (error || made.toString('hex') !== key) console.log('fault key')
      console.log('tick', number)
      setTimeout(run, 20, number + 1)
    })
  })
}
run(1)
